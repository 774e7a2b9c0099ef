"""Several tasks on one backbone, as a user runs them: labels of the same texts, separate data sets, mistakes."""

import argparse
import json
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxft.cli import use
from jaxft.data.batching.choice import make_loader
from jaxft.errors import UserError
from jaxft.export import with_torch
from jaxft.export.writer import export_run
from jaxft.inference.model import open_model
from jaxft.inference.predict import predict_file
from jaxft.models.pretrained_model import resolve_model
from jaxft.parallel.mesh import make_mesh
from jaxft.tasks.registry import load_card, make_data, make_task
from jaxft.training.loop import train
from jaxft.training.network import initial_parameters, make_network
from jaxft.training.run_folder.workdir import open_run
from jaxft.training.settings import load_settings, settings_from_config
from jaxft.training.splits import collect_labels, encode_splits, read_splits
from jaxft.training.step import add_step_scales, merge_model
from tests.conftest import REPOSITORY
from tests.interruption import assert_a_stopped_run_ends_bit_identically

FILLERS = "a b c d e f g h i j".split()
INTENTS = (("task", "sequence_classification"), ("model.problem_type", "multi_label_classification"))
INTENTS += (("data.label", "intents"),)
SLOTS = (("task", "token_classification"),)
SCORE = (("task", "sequence_classification"), ("model.problem_type", "regression"), ("model.pool", "mean"))
SCORE += (("data.text", "first"), ("data.text_pair", "second"), ("data.label", "score"))
SCORE += (("data.label_range", (0.0, 50.0)),)
CHAIN = (("task", "token_classification"), ("model.crf", True), ("loss.weight", 2.0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Texts with intents p to s, which stand in them, and spans of one or two digits; pairs whose digits add up."""
    folder = tmp_path_factory.mktemp("texts")
    rng = random.Random(0)
    with open(folder / "both.jsonl", "w") as file:
        for index in range(500):
            words, spans = rng.choices(FILLERS, k=rng.randint(3, 9)), []
            intents = [label for label in "pqrs" if rng.random() < 0.4]
            for word in [*intents, *rng.choices(["1", "2", "3 4"], k=rng.randint(0, 2))]:
                words.insert(rng.randint(0, len(words)), word)
            text = ""
            for word in words:
                if word[0].isdigit():
                    label = "one" if word == "1" else "other"
                    spans.append({"start": len(text), "end": len(text) + len(word), "label": label})
                text += word + " "
            record = {"text": text, "intents": intents, "spans": spans, "fold": index % 10, "id": index}
            file.write(json.dumps(record) + "\n")
    with open(folder / "pairs.tsv", "w") as file:
        file.write("first\tsecond\tscore\n")
        for _ in range(60):
            first_number, second_number = rng.choice("024"), rng.choice("01")
            file.write(
                f"a {first_number}\t{second_number} b\t{10 * (int(first_number) + int(second_number))}\n"
            )
    for name, count in (("tags", 100), ("few", 9)):
        sentences = [rng.choices([*FILLERS, "1", "2"], k=[3, 5, 60][i % 3]) for i in range(count)]
        file = (folder / f"{name}.conll").open("w")
        for words in sentences:
            file.write("".join(f"{word}\t{'B-digit' if word.isdigit() else 'O'}\n" for word in words) + "\n")
        file.close()
    return folder


def config_for(folder, tiny_bert, **changed):
    both = folder / "both.jsonl"
    config = settings_from_config(
        {
            "task": "multi_task",
            "tasks": (("intents", (*INTENTS, ("loss.weight", 5.0))), ("slots", SLOTS)),
            "model.checkpoint": str(tiny_bert),
            "model.unroll": "no",  # quick to compile
            "data.train": f"{both}?fold=0-7",
            "data.dev": f"{both}?fold=8",
            "data.test": f"{both}?fold!=0-8",
            "data.cache_dir": "off",
            "data.max_length": 48,
            "batch.rows": 8,
            "train.steps": 180,
            "optim.lr": 0.01,
            "optim.warmup": 5,
            "eval.metric": "intents/f1_micro+slots/entity_f1",
            "eval.every_steps": 90,
            "eval.rows": 8,
            "eval.bootstrap": 50,
            "log.tensorboard": False,
        }
        | {key.replace("__", "."): value for key, value in changed.items()}
    )
    return config


@pytest.fixture(scope="module")
def joint(folder, tmp_path_factory, tiny_bert):
    """Two tasks of the same texts: (folder of the run, summary)."""
    run = tmp_path_factory.mktemp("runs") / "joint"
    return run, train(config_for(folder, tiny_bert, batch__accumulate=2), run)


@pytest.fixture(scope="module")
def separate_run(folder, tmp_path_factory, tiny_bert):
    """Three tasks with data sets of their own, one of two sets: (folder of the run, summary)."""
    run = tmp_path_factory.mktemp("runs") / "apart"
    files = f"intents={folder}/both.jsonl?fold=0-7;score={folder}/pairs.tsv;chain={folder}/tags.conll"
    config = config_for(
        folder,
        tiny_bert,
        tasks=(("intents", INTENTS), ("score", SCORE), ("chain", CHAIN)),
        data__train=files,
        data__dev=None,
        data__test=f"chain={folder}/tags.conll",
        data__mix="weights",
        data__mix_weights=(1.0, 1.0, 2.0),
        batch__by_task=True,
        eval__metric="auto",
        eval__every_steps=30,
        train__steps=60,
    )
    return run, train(config, run)


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_both_tasks_are_learnt_in_one_pass(joint):
    run, summary = joint
    test = summary["test"]
    assert test["intents/f1_micro"] > 0.9 and test["intents/subset_accuracy"] > 0.6  # by chance: 0.4 and 0.07
    assert test["slots/entity_f1"] > 0.9
    assert summary["late_compiles"] == 0
    assert summary["selected_by"] == "intents/f1_micro+slots/entity_f1"
    mean = (test["intents/f1_micro"] + test["slots/entity_f1"]) / 2
    assert test[summary["selected_by"]] == pytest.approx(mean)
    assert test["loss"] == pytest.approx(5 * test["intents/loss"] + test["slots/loss"])
    assert json.loads((run / "eval/test.json").read_text())["metrics"] == test
    slots = json.loads((run / "eval/test-slots.json").read_text())
    assert slots["metrics"]["entity_f1"] == test["slots/entity_f1"] and slots["sentences"] == 50
    assert len(read_lines(run / "predictions/test-intents.jsonl")) == 50
    assert (run / "errors/test-slots.tsv").is_file()


def test_data_sets_of_their_own(separate_run):
    """Another part of each set is dev; what test has no text for is not measured there."""
    _, summary = separate_run
    assert summary["selected_by"] == "intents/f1_micro+score/pearson+chain/entity_f1"
    assert summary["dev"]["chain/entity_f1"] > 0.9  # sentences of many windows among them
    assert {name.partition("/")[0] for name in summary["test"]} == {"chain", "loss"}
    assert summary["test"]["loss"] == pytest.approx(2 * summary["test"]["chain/loss"])


def test_a_stopped_run_ends_bit_identically(separate_run, tmp_path, monkeypatch):
    """In the second of two epochs of data sets that go at paces of their own, a set a step."""
    config = load_settings(str(separate_run[0] / "config.json"))
    assert_a_stopped_run_ends_bit_identically(config, separate_run[0], tmp_path / "run", monkeypatch, at=40)


def test_evaluation_and_prediction_give_the_runs_own_answers(joint, folder, tmp_path):
    run, summary = joint
    names = dict.fromkeys(("format", "word_column", "tag_column", "layout", "stride"))
    source = f"{folder}/both.jsonl?fold=9"
    flags = argparse.Namespace(run=run, data=source, output=None, **names)
    assert use.run_evaluate(flags) == pytest.approx(summary["test"], rel=1e-5)
    assert (run / "evaluations/both.jsonl-fold-9/eval/both.json").is_file()
    flags.data = f"slots={source}"
    assert use.run_evaluate(flags)["slots/entity_f1"] == summary["test"]["slots/entity_f1"]

    expected = read_lines(run / "predictions/test-intents.jsonl")
    (tmp_path / "in.jsonl").write_text(
        "".join(json.dumps({"text": e["text"], "slots": 1}) + "\n\n" for e in expected)
    )
    flags = {"run": run, "input": str(tmp_path / "in.jsonl"), "output": str(tmp_path / "out.jsonl")}
    predict_file(flags["run"], flags["input"], flags["output"])
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    assert lines[1::2] == [""] * 50
    records = [json.loads(line) for line in lines[::2]]
    assert [f["intents"]["predicted_labels"] for f in records] == [e["predicted_labels"] for e in expected]
    assert [f["slots"] for f in records] == [1] * 50  # the record's own
    for record in records:
        for entity in record["predicted_slots"]["entities"]:
            assert record["text"][entity["start"] : entity["end"]] == entity["text"]
            assert entity["label"] in ("one", "other")
    (tmp_path / "in.txt").write_text("a p 3 4 b\n\n")
    flags["input"] = str(tmp_path / "in.txt")
    predict_file(flags["run"], flags["input"], flags["output"])
    first, empty = read_lines(tmp_path / "out.jsonl")
    assert first["intents"]["predicted_labels"] == ["p"]
    assert [(e["text"], e["label"]) for e in first["slots"]["entities"]] == [("3 4", "other")]
    assert empty["text"] == "" and empty["slots"] == {"entities": []} and "scores" in empty["intents"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "in.jsonl",
            '{"text": "a"}\n{"txt": "a"}\n',
            r"in.jsonl, line 2: no key 'text' in \['txt'\]; name the one",
        ),
        (
            "in.jsonl",
            '{"text": "a"}\n{"text": 1}\n',
            "in.jsonl, line 2, key 'text': a number where a string was expected",
        ),
        ("in.jsonl", '{"text": "a"}\n{"text"\n', "in.jsonl, line 2, column 1: not valid JSON"),
        ("in.csv", "text\na\n", "in.csv: predictions are for jsonl, .*, text, not csv; give"),
    ],
)
def test_bad_input_to_predict(joint, tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    flags = {"run": joint[0], "input": str(tmp_path / name), "output": str(tmp_path / "out.jsonl")}
    with pytest.raises(UserError, match=message):
        predict_file(flags["run"], flags["input"], flags["output"])
    assert not (tmp_path / "out.jsonl").exists()


def test_tasks_that_read_other_columns_answer_for_those(separate_run, tmp_path):
    """Each task's answer hangs on its own columns of a record alone."""
    changed = [{}, {"second": "4 b"}, {"text": "a p 3 4 b"}]
    records = [{"text": "a q b", "first": "a 4", "second": "1 b"} | change for change in changed]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    flags = {
        "run": separate_run[0],
        "input": str(tmp_path / "in.jsonl"),
        "output": str(tmp_path / "out.jsonl"),
    }
    predict_file(flags["run"], flags["input"], flags["output"])
    first, second, third = read_lines(tmp_path / "out.jsonl")
    values = [answer["score"]["predicted_value"] for answer in (first, second, third)]
    intents = [answer["intents"]["scores"] for answer in (first, second, third)]
    assert values[0] == pytest.approx(values[2], abs=1e-3)
    assert values[0] != pytest.approx(values[1], abs=0.05)
    assert intents[0] == pytest.approx(intents[1], abs=1e-3)
    assert intents[0] != pytest.approx(intents[2], abs=0.05)
    assert first["chain"]["entities"] == second["chain"]["entities"]


@pytest.mark.parametrize("kind", ["joint", "separate_run"])
def test_an_export_answers_the_same_in_torch(kind, request, tmp_path, capsys):
    """Multi-label, a number (unscaled) over a mean, and a CRF, whose heads lie next to the backbone."""
    run, _ = request.getfixturevalue(kind)
    export_run(run, tmp_path / "model", verify=True)
    output = capsys.readouterr().out
    assert "answers by heads_loader.py in torch: 0 of " in output
    loader = with_torch.load_exported(tmp_path / "model")
    if kind == "joint":
        assert loader("a p 3 4 b".split()) == {
            "intents": ["p"],
            "slots": ["O", "O", "B-other", "I-other", "O"],
        }
        answers = loader(
            ["p", *["a"] * 100, "1"]
        )  # in several windows, whose logits for the intents are averaged
        assert len(answers["slots"]) == 102 and answers["slots"][-1] == "B-one"
        with pytest.raises(ValueError, match="the task slots labels words: give a list"):
            loader("a p")
    text = (tmp_path / "model/README.md").read_text()
    assert "from heads_loader import Model" in text and str(run.parent) not in text
    assert ("`slots`, token classification: O, B-one" in text) == (kind == "joint")
    assert load_card("multi_task").describe_model(open_run(run), 7)


# ---------------------------------------------------------------- the loss


@pytest.fixture(scope="module")
def network(folder, tiny_bert):
    """Makes of settings: task, network, parameters, and batches of the training windows under loader options."""

    def make(**changed):
        files = {"data__train": f"{folder}/both.jsonl?id=0-59", "data__dev": f"{folder}/both.jsonl?id=60"}
        config = config_for(folder, tiny_bert, model__dropout=0.0, **files | changed)
        checkpoint = make_data(config).open_model(())
        data = make_data(config)
        examples = {0: read_splits(data, config, lambda _: None, ["train"])["train"]}
        labels = collect_labels(data, examples)
        task = make_task(labels, config, head_dropout=0.0)
        train, _ = encode_splits(data, labels, examples, {}, checkpoint.processor, config, lambda _: None)
        mesh = make_mesh(config, jax.devices()[:1])
        net = make_network(task, *resolve_model(config, checkpoint.hf_config), mesh)
        parameters, _ = initial_parameters(net, config, checkpoint)

        def batches(**options):
            loader = make_loader(
                train[0].windows,
                **{"rows": 8, "max_length": 48, "seed": 1} | options,
                **task.batch_spec.loader_options(),
            )
            made = [loader.batch(step) for step in range(loader.steps_per_epoch)]
            return [batch._replace(arrays=add_step_scales(batch.arrays)) for batch in made]

        return task, net, parameters, batches

    return make


def sums(task, net, parameters, arrays, dropout=None):
    return task.loss(merge_model(net.graphdef, parameters), arrays, dropout)


def test_the_loss_is_the_sum_of_each_tasks_mean(network):
    """A step's, however it is cut into microbatches; and each task's is what the task alone computes."""
    weights = {"intents": 3.0, "slots": 0.5}
    tasks = (("intents", (*INTENTS, ("loss.weight", 3.0))), ("slots", (*SLOTS, ("loss.weight", 0.5))))
    task, net, parameters, batches = network(tasks=tasks)

    @jax.jit
    def losses(parameters, arrays):
        cut = [{k: v[rows] for k, v in arrays.items()} for rows in (slice(0, 3), slice(3, 8))]
        views = {
            name: arrays | {key: arrays[f"{name}/{key}"] for key in ("labels", "weights")}
            for name in task.tasks
        }
        alone = [
            single_task.loss(merge_model(net.graphdef, parameters).task_models[name], views[name], None)
            for name, single_task in task.tasks.items()
        ]
        return sums(task, net, parameters, arrays), [sums(task, net, parameters, part) for part in cut], alone

    (total, weight), cut, alone = losses(parameters, batches()[0].arrays)
    assert weight == pytest.approx(1) and float(sum(w for _, w in cut)) == pytest.approx(1)
    means = [
        weights[name] * float(loss / count) for name, (loss, count) in zip(task.tasks, alone, strict=True)
    ]
    assert float(total) == pytest.approx(sum(means), rel=1e-5)
    assert float(sum(t for t, _ in cut)) == pytest.approx(float(total), rel=1e-5)


def test_packing_changes_no_gradient(network, folder):
    """All windows in one step, packed and one a row: of two tasks and of one, sentences of many windows, and pairs."""
    files = f"intents,slots={folder}/both.jsonl?id=0-19;intents={folder}/both.jsonl?id=20-29;"
    files += f"slots,chain={folder}/few.conll;score={folder}/pairs.tsv?score!=0"
    tasks = (("intents", (*INTENTS, ("model.pool", "mean"))), ("slots", SLOTS), ("chain", CHAIN))
    tasks += (("score", SCORE),)
    task, net, parameters, batches = network(tasks=tasks, data__train=files)
    step = jax.jit(jax.value_and_grad(lambda p, a: sums(task, net, p, a)[0]))

    def gradient(**options):
        [batch] = batches(rows=120, **options)
        rows = (batch.windows >= 0).any(axis=1)
        arrays = {name: values[rows] for name, values in batch.arrays.items()}
        return len(arrays["starts"]), step(parameters, arrays)

    rows, (loss, packed) = gradient()
    singles, (loss_of_singles, unpacked) = gradient(pack=False, buckets=[48])
    assert rows * 2 < singles
    assert all(np.abs(packed[f"head/{name}"]).max() > 1e-3 for name in ("chain/transitions", "score/kernel"))
    assert float(loss) == pytest.approx(float(loss_of_singles), rel=1e-5)
    for name, value in packed.items():
        atol = 2e-5 * max(np.abs(unpacked[name]).max(), 1e-3)  # that of keys' biases is 0
        np.testing.assert_allclose(value, unpacked[name], atol=atol, err_msg=name)


@pytest.mark.parametrize("numbers", [False, True])
def test_uncertainty_weighs_by_learned_variances(network, folder, numbers):
    """Half as much a squared error, whose likelihood is a normal distribution's."""
    changed = {"tasks": (("intents", INTENTS), ("slots", SLOTS))}
    s, factor = np.array([0.3, -0.7]), 1.0
    if numbers:
        changed = {"tasks": (("score", SCORE),), "data__train": f"{folder}/pairs.tsv"}
        changed |= {"data__dev": f"{folder}/pairs.tsv", "data__test": None}
        s, factor = np.array([0.4]), 0.5
    task, net, parameters, batches = network(loss__balance="uncertainty", **changed)

    @jax.jit
    def losses(variances, arrays):
        with_variances = parameters | {"head/uncertainty": variances}
        model = merge_model(net.graphdef, with_variances)
        each = [
            loss / weight
            for loss, weight in (
                single_task.loss(
                    model.task_models[name],
                    arrays | {k: arrays[f"{name}/{k}"] for k in ("labels", "weights")},
                    None,
                )
                for name, single_task in task.tasks.items()
            )
        ]
        return jax.value_and_grad(
            lambda v: sums(task, net, with_variances | {"head/uncertainty": v}, arrays)[0]
        )(variances), each

    (total, gradient), each = losses(jnp.asarray(s, jnp.float32), batches()[0].arrays)
    each = np.array(each)
    assert float(total) == pytest.approx(float(np.sum(factor * np.exp(-s) * each + s / 2)), rel=1e-5)
    np.testing.assert_allclose(gradient, -factor * np.exp(-s) * each + 0.5, rtol=1e-4)


@pytest.mark.sweep
def test_a_run_with_learned_variances_and_r_drop_learns_and_is_exported(folder, tiny_bert, tmp_path, capsys):
    """Of data sets of their own, so that batches have no label of some task; one task's losses have two passes."""
    dropped = (("intents", (*INTENTS, ("loss.r_drop", 1.0))), ("score", SCORE), ("chain", CHAIN[:1]))
    files = f"intents={folder}/both.jsonl?fold=0-7;score={folder}/pairs.tsv;chain={folder}/tags.conll"
    changed = {"data__train": files, "data__dev": None, "data__test": None, "eval__metric": "auto"}
    changed |= {"batch__by_task": True, "train__steps": 90, "eval__every_steps": 90}
    changed |= {"optim__lr_multipliers": (("^head/uncertainty$", 10.0), (".", 1.0))}
    config = config_for(folder, tiny_bert, tasks=dropped, loss__balance="uncertainty", **changed)
    summary = train(config, tmp_path / "run")
    assert summary["dev"]["chain/entity_f1"] > 0.9
    model = open_model(open_run(tmp_path / "run"), print)
    assert model.task.backbone_passes == 2
    variances = np.asarray(model.parameters["head/uncertainty"])
    assert (np.abs(variances) > 0.05).all()  # all moved
    export_run(tmp_path / "run", tmp_path / "model", verify=True)
    assert "answers by heads_loader.py in torch: 0 of " in capsys.readouterr().out


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"tasks": (("a/b", SLOTS),)}, "config.tasks: 'a/b' cannot be a task's name"),
        ({"tasks": ()}, r"config.tasks=\(\): expected pairs .*\"slots\""),
        ({"task": "token_classification"}, "config.tasks is a setting of multi_task"),
        (
            {"tasks": (("a", (*SLOTS, ("data.max_length", 9))),)},
            "config.tasks, a: 'data.max_length' is one for all",
        ),
        (
            {"tasks": (("a", (*SLOTS, ("data.tag_colum", 9))),)},
            "config.tasks, a: .*did you mean config.data.tag_column",
        ),
        ({"tasks": (("a", (("data.label", "x"),)),)}, "config.tasks, a: what kind of task is it"),
        (
            {"tasks": (("a", (("task", "causal_lm"),)),)},
            "a: task='causal_lm', but tasks that share a backbone are",
        ),
        (
            {"data__train": "intent=x.jsonl"},
            "intent=x.jsonl: 'intent' is no task; .* config.tasks has intents, slots",
        ),
        ({"data__mix": "weights"}, "config.data.mix_weights=\\(\\): expected numbers above 0"),
        ({"data__mix": "weights", "data__mix_weights": (1.0, 2.0)}, "has 2 numbers for 1 data sets"),
        ({"data__context": True}, "config.data.context=True: expected False with config.task='multi_task'"),
        ({"eval__metric": "intents/f1_micro+slots/f1"}, "was not measured; measured: .*slots/entity_f1"),
        (
            {"loss__balance": "uncertainty", "tasks": (("a", (*SLOTS, ("loss.weight", 2.0))),)},
            "config.loss.balance='uncertainty' learns the weights",
        ),
    ],
)
def test_bad_settings(folder, tiny_bert, tmp_path, changed, message):
    with pytest.raises(UserError, match=message):
        train(config_for(folder, tiny_bert, **changed), tmp_path / "run")


def test_bad_data(folder, tiny_bert, tmp_path):
    def start(**changed):
        train(config_for(folder, tiny_bert, **changed), tmp_path / "run")

    with pytest.raises(UserError, match="the training data has no text for the task slots"):
        start(data__train=f"intents={folder}/both.jsonl")
    (tmp_path / "spans.jsonl").write_text(
        '{"text": "at 5pm", "spans": [{"start": 3, "end": 4, "label": "X"}], "times": []}\n'
    )
    columns = (("spans", "times"),)
    with pytest.raises(UserError, match="spans.jsonl:1: the tasks a and b cut the text into different words"):
        start(
            data__train=str(tmp_path / "spans.jsonl"),
            tasks=(("a", SLOTS), ("b", (*SLOTS, ("data.columns", columns)))),
        )


def test_recipe_offline():
    config = load_settings(str(REPOSITORY / "configs/nlupp.py"))
    assert config.data.train == "demo:requests/train"
