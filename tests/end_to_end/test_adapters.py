"""Runs with adapters: resumed to the bit, with small checkpoints that name their base, evaluated and answered."""

import json
import shutil
import uuid

import fsspec
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import jaxft
from jaxft.adapters.peft.config import WITH_LOADER
from jaxft.adapters.plan import is_adapter, merge_parameters
from jaxft.cli import use
from jaxft.errors import Preempted, UserError
from jaxft.export.writer import export_run
from jaxft.inference.evaluate import evaluate_run
from jaxft.inference.model import open_model
from jaxft.parallel.mesh import make_mesh
from jaxft.training import loop, prepare
from jaxft.training.network import initial_parameters
from jaxft.training.prepare import prepare_network
from jaxft.training.run_folder.best import load_best
from jaxft.training.run_folder.frozen_base import open_base_model
from jaxft.training.run_folder.remote_folder import local_folder
from jaxft.training.run_folder.workdir import open_run
from jaxft.training.settings import load_settings, settings_from_config
from tests.end_to_end.test_train_settings import weights

# All that touches the state or the masks of adapters: accumulation is on too.
SETTINGS = {
    "adapter.method": "lora",
    "adapter.r": 3,
    "adapter.dropout": 0.2,
    "adapter.base_dtype": "int8",
    "adapter.init_lora_weights": "pissa",
    "adapter.loraplus_lr_ratio": 4.0,
    "optim.ema": 0.9,
    "optim.layer_decay": 0.9,
    "loss.r_drop": 0.5,
    "model.unroll": "no",  # compiled sooner
    "train.steps": 8,
    "eval.every_steps": 4,
    "checkpoint.every_steps": 4,
    "eval.bootstrap": 0,
}


def assert_exports_are_the_run(workdir, tiny_flags, base) -> None:
    """Asserts that torch and a run that starts from the adapter have the same weights."""
    folder = workdir / "adapter"
    export_run(workdir, folder, format="peft", verify=True)
    files = {"adapter_config.json", "adapter_model.safetensors", "config.json", "README.md"}
    assert {path.name for path in folder.iterdir()} >= files
    card = (folder / "README.md").read_text()
    assert "library_name: peft" in card and "PeftModel.from_pretrained(base, folder)" in card
    export_run(workdir, workdir / "model-export", verify=True)
    merged = load_file(workdir / "model-export" / "model.safetensors")
    assert "classifier.weight" in merged and not any("adapter" in name for name in merged)
    frozen = "encoder.layer.0.intermediate.dense.weight"  # of the base, and not what int8 has made of it
    [expected] = (v for name, v in load_file(base / "model.safetensors").items() if name.endswith(frozen))
    np.testing.assert_array_equal(merged[f"bert.{frozen}"], expected.astype(np.float32))

    model = open_model(open_run(workdir), print, dtype="float32")
    values = {"model.checkpoint": base, "adapter.init_from": folder}
    flags = [*tiny_flags[2:], *(f"--config.{key}={value}" for key, value in values.items())]
    config = load_settings(tiny_flags[1], flags)
    assert (config.adapter.method, config.adapter.r) == ("lora", 2 * SETTINGS["adapter.r"])
    net = prepare_network(model.task, config, model.run.checkpoint.hf_config, model.net.mesh)
    start, line = initial_parameters(net, config, open_base_model(config, print))
    assert f"its head is kept, for it has the same {len(model.run.labels)} labels" in line
    labels_alone = shutil.copytree(folder, workdir / "labels_alone")
    fields = json.loads((folder / "config.json").read_text())
    (labels_alone / "config.json").write_text(json.dumps({"id2label": fields["id2label"]}))
    of_labels = load_settings(tiny_flags[1], [*flags[:-1], f"--config.adapter.init_from={labels_alone}"])
    _, line_of_labels = initial_parameters(net, of_labels, open_base_model(config, print))
    assert f"its head is kept, for it has the same {len(model.run.labels)} labels" in line_of_labels
    expected = merge_parameters(model.net.graphdef, model.parameters)
    for path, value in merge_parameters(net.graphdef, start).items():
        np.testing.assert_allclose(value, expected[path], atol=1e-6, err_msg=path)
    with pytest.raises(UserError, match="has shape None there .* the same checkpoint, labels and adapters"):
        load_best(workdir, model.net.abstract, model.run.labels, print, "another base")
    weights_file = folder / "adapter_model.safetensors"
    extra = "base_model.model.bert.embeddings.LayerNorm.bias"
    save_file(load_file(weights_file) | {extra: np.ones(32, np.float32)}, weights_file)
    with pytest.raises(UserError, match="the adapter changes 'backbone/embeddings/norm/bias' of its base"):
        initial_parameters(net, config, open_base_model(config, print))
    with pytest.raises(UserError, match="config.adapter.r=2: the adapter of .* has 6; leave the setting out"):
        load_settings(tiny_flags[1], [*flags, "--config.adapter.r=2"])


def predict(tmp_path, records, *flags) -> list[dict]:
    """Returns the answers to records by the command."""
    source, output = tmp_path / "records.jsonl", tmp_path / "answers.jsonl"
    source.write_text("".join(json.dumps(record) + "\n" for record in records))
    use.predict([*map(str, flags), "--input", str(source), "--output", str(output)])
    return [json.loads(line) for line in output.read_text().splitlines()]


def assert_adapters_answer_records(workdir, base, tmp_path, capsys) -> None:
    """Asserts that records are answered by the adapters that they name, as by each alone; by files without a run too.

    The other adapter is that of the run, with other values and labels.
    """
    other, sentence = tmp_path / "other", {"text": "Anna Berg left Oslo for the Red Cross ."}
    path = workdir / "adapter" / "adapter_model.safetensors"
    tensors = {name: t for name, t in load_file(path).items() if "LayerNorm" not in name}
    save_file(tensors, path)
    shutil.copytree(workdir / "adapter", other)
    path = other / "adapter_model.safetensors"
    is_changed = ("classifier.weight", "lora_B.weight")
    save_file({n: t * -3 if n.endswith(is_changed) else t for n, t in tensors.items()}, path)
    config = json.loads((other / "config.json").read_text())
    config["id2label"] = {key: name.replace("LOC", "PLACE") for key, name in config["id2label"].items()}
    (other / "config.json").write_text(json.dumps(config))

    [of_run] = predict(tmp_path, [sentence], "--run", workdir)
    [of_files] = predict(tmp_path, [sentence], "--adapter", workdir / "adapter")
    [of_other] = predict(tmp_path, [sentence], "--adapter", other)
    assert of_run["entities"] and of_files == of_run and of_other["entities"] != of_run["entities"]
    records = [sentence, sentence | {"task": "b"}, sentence | {"task": "a"}, sentence | {"task": "b"}]
    flags = [
        "--run",
        workdir,
        "--adapter",
        f"a={workdir}",
        "--adapter",
        f"b={other}",
        "--adapter_field",
        "task",
    ]
    answers = predict(tmp_path, records, *flags)
    expected = [of_run, of_other, of_run, of_other]
    for answer, record, alone in zip(answers, records, expected, strict=True):
        assert answer.keys() == {*record, "entities"}
        for entity, entity_alone in zip(answer["entities"], alone["entities"], strict=True):
            assert entity == entity_alone | {"score": pytest.approx(entity_alone["score"], abs=2e-6)}

    # Both may be in an object store.
    bucket = f"memory://{uuid.uuid4().hex}"
    with local_folder(f"{bucket}/a") as folder:
        shutil.copytree(workdir, folder, dirs_exist_ok=True)
    for file in other.iterdir():
        fsspec.filesystem("memory").put_file(str(file), f"{bucket}/b/{file.name}")
    stored = predict(
        tmp_path, records[1:3], "--adapter", f"a={bucket}/a", "--adapter", f"b={bucket}/b", *flags[6:]
    )
    assert stored == answers[1:3]

    # Without --run, records must name an adapter.
    records = records[1:2] + [sentence] + [sentence | {"task": "c"}]
    answers = predict(tmp_path, records, *flags[4:], "--on_error", "record")
    assert [e["label"] for e in answers[0]["entities"]] == [e["label"] for e in of_other["entities"]]
    assert "line 2: has no 'task'; expected the name of an adapter: 'b'; --run RUN, or" in answers[1]["error"]
    assert answers[2]["error"].endswith("line 3: its 'task' is 'c'; expected the name of an adapter: 'b'")

    adapter_config = json.loads((other / "adapter_config.json").read_text())
    assert adapter_config["base_model_name_or_path"] == str(base)
    (other / "adapter_config.json").write_text(
        json.dumps(adapter_config | {"base_model_name_or_path": None, "task_type": "SEQ_CLS"})
    )
    for flags, message in (
        ([], "nothing to predict with; name a run, --run RUN, or adapters, --adapter FOLDER"),
        (
            ["--run", other],
            "expected a run, found an adapter in PEFT's files; jaxft predict takes it as --adapter",
        ),
        (["--adapter", other], "names no base model (base_model_name_or_path); name it by --model"),
        (
            ["--adapter", other, "--adapter", base],
            "two adapters without a name; give each adapter another name",
        ),
        (
            ["--run", workdir, "--adapter", other],
            "answers the records that name no adapter, and so would --adapter",
        ),
        (
            ["--run", workdir, "--model", base],
            "names the base of adapters, and there is no --adapter; leave it out",
        ),
        (
            ["--adapter", base],
            "has neither adapter_config.json nor model/labels.json; expected the folder of an adapter in PEFT's layout",
        ),
        (
            ["--adapter", f"a={workdir}", "--adapter", f"b={other}", "--model", base],
            "expected adapters of the same task",
        ),
    ):
        with pytest.raises(SystemExit):
            predict(tmp_path, [sentence], *flags)
        assert message in capsys.readouterr().err.replace("\n", " ")


def test_a_run_is_resumed_to_the_bit_and_belongs_to_its_base(tiny_flags, tiny_bert, corpus, tmp_path, capsys):
    base = tmp_path / "base"
    shutil.copytree(tiny_bert, base)
    tensors = load_file(base / "model.safetensors")
    halves = {name: tensor.astype(np.float16) for name, tensor in tensors.items()}
    save_file(halves, base / "model.safetensors", metadata={"format": "pt"})
    values = SETTINGS | {"model.checkpoint": base}
    flags = [*tiny_flags[2:], *(f"--config.{key}={value}" for key, value in values.items())]
    config = load_settings(tiny_flags[1], flags)
    summary = loop.train(config, tmp_path / "whole")
    assert summary["late_compiles"] == 0
    asked = iter(range(100))
    with pytest.raises(Preempted):
        loop.train(config, tmp_path / "cut", should_stop=lambda: next(asked) == 6)
    resumed = loop.train(config, tmp_path / "cut")
    for name in ("dev", "test"):
        assert summary[name] == resumed[name]
    uncut, cut = (weights(tmp_path / name) for name in ("whole", "cut"))
    assert uncut.keys() == cut.keys()
    for name, value in uncut.items():
        np.testing.assert_array_equal(value, cut[name], err_msg=name)

    # Checkpoints hold adapters and the head.
    assert all("/adapter/" in name or name.startswith("head/") for name in uncut)
    metadata = next((tmp_path / "whole" / "checkpoints").glob("8/state/_METADATA")).read_text()
    assert "attention/value/adapter/start_a" in metadata and "mlp/up" not in metadata

    measured = evaluate_run(tmp_path / "whole", str(corpus["test"]), tmp_path / "again")
    assert measured["loss"] == pytest.approx(summary["test"]["loss"], rel=1e-6)

    assert_exports_are_the_run(tmp_path / "whole", tiny_flags, base)
    assert_adapters_answer_records(tmp_path / "whole", base, tmp_path, capsys)

    tensors = load_file(base / "model.safetensors")
    name = next(name for name in tensors if name.endswith("layer.0.intermediate.dense.weight"))
    tensors[name] = tensors[name] + np.float32(0.5) * (np.arange(tensors[name].size) == 3).reshape(
        tensors[name].shape
    )
    save_file(tensors, base / "model.safetensors")
    message = (
        "holds adapters for a base with the content hash [0-9a-f]{16}, and that of config.model.checkpoint is"
    )
    with pytest.raises(UserError, match=message):
        evaluate_run(tmp_path / "whole", str(corpus["test"]), tmp_path / "other")
    (tmp_path / "cut" / "summary.json").unlink()
    with pytest.raises(UserError, match=message):
        loop.train(config, tmp_path / "cut")


def test_numbers_of_an_exported_adapter_are_those_of_its_run(tiny_bert, tmp_path):
    """The head of the files is in the units of the data, so it is not scaled again. They compute with their alpha."""
    records = [
        {"text": text, "label": float(len(text))} for text in ("a", "a dog", "a dog ran", "a dog ran home")
    ] * 4
    settings = {
        "task": "sequence_classification",
        "model.checkpoint": str(tiny_bert),
        "model.problem_type": "regression",
        "data.label_range": (0.0, 50.0),
        "data.max_length": 16,
        "data.dev_fraction": 0.5,
        "adapter.method": "lora",
        "train.steps": 2,
        "batch.rows": 2,
        "eval.bootstrap": 0,
        "log.tensorboard": False,
    }
    run = jaxft.train(settings, tmp_path / "run", train=records)
    export_run(run.folder, tmp_path / "adapter", format="peft")
    written = json.loads((tmp_path / "adapter/jaxft.json").read_text())
    assert written.keys().isdisjoint({"data.label_range", "data.dev_fraction", "data.train"})
    [expected, answer] = [
        model.predict("a dog ran")["predicted_value"] for model in (run, jaxft.Adapters(tmp_path / "adapter"))
    ]
    assert answer == pytest.approx(expected, rel=1e-4) and abs(expected) > 1e-3

    settings |= {"init_from": str(run.folder), "adapter.alpha": 16.0}
    message = "adapter.alpha=16.0: the adapters of config.init_from=.* have 8.0; set the same"
    with pytest.raises(UserError, match=message):
        jaxft.train(settings, tmp_path / "next", train=records)


def test_wrong_modules_are_named_before_the_data_is_encoded(tiny_flags, monkeypatch):
    monkeypatch.setattr(prepare, "encode_splits", lambda *_: pytest.fail("the data was encoded"))
    flags = ["--config.adapter.method=lora", "--config.adapter.target_modules=('qeury',)"]
    config = load_settings(tiny_flags[1], [*tiny_flags[2:], *flags])
    with pytest.raises(UserError, match="target_modules: the pattern 'qeury' matches nothing"):
        prepare.prepare_data(config, make_mesh(config), print)


def test_adapters_that_decoders_do_not_know_write_no_texts(tiny_gpt2):
    values = {"task": "causal_lm", "model.checkpoint": str(tiny_gpt2), "adapter.method": "bottleneck"}
    with pytest.raises(UserError, match="'bottleneck': text is generated .*; expected one of lora, adalora"):
        prepare.check_adapters(settings_from_config(values))


# Ranks that go, factors, and methods that PEFT does not have.
MORE_METHODS = {
    "adalora": {"init_r": 4, "target_r": 1, "tinit": "1 step", "tfinal": 0.25, "bias": "lora_only"},
    "bottleneck": {"r": 4, "placement": "pfeiffer"},
    "bitfit": {},
    "ia3": {},
}


@pytest.mark.sweep
@pytest.mark.parametrize("method", MORE_METHODS)
def test_other_methods_are_resumed_to_the_bit_and_exported(method, tiny_flags, tmp_path):
    settings = {"method": method} | MORE_METHODS[method]
    values = {key: value for key, value in SETTINGS.items() if not key.startswith("adapter.")}
    values |= {f"adapter.{key}": value for key, value in settings.items()}
    if method == "adalora":
        del values["optim.ema"]  # in averages no value is 0
    flags = [*tiny_flags[2:], *(f"--config.{key}={value}" for key, value in values.items())]
    config = load_settings(tiny_flags[1], flags)
    loop.train(config, tmp_path / "whole")
    asked = iter(range(100))
    with pytest.raises(Preempted):
        loop.train(config, tmp_path / "cut", should_stop=lambda: next(asked) == 6)
    loop.train(config, tmp_path / "cut")
    uncut, cut = (weights(tmp_path / name) for name in ("whole", "cut"))
    for name, value in uncut.items():
        np.testing.assert_array_equal(value, cut[name], err_msg=name)
    folder = tmp_path / "adapter"
    export_run(tmp_path / "whole", folder, format="peft", verify=True)
    assert (folder / "adapter_loader.py").is_file() == (method in WITH_LOADER)
    card = (folder / "README.md").read_text()
    assert ("add_adapter(base, folder)" in card) == (method in WITH_LOADER)

    model = open_model(open_run(tmp_path / "whole"), print)
    config = load_settings(tiny_flags[1], [*tiny_flags[2:], f"--config.adapter.init_from={folder}"])
    net = prepare_network(model.task, config, model.run.checkpoint.hf_config, model.net.mesh)
    start, _ = initial_parameters(net, config, open_base_model(config, print))
    for path in net.kept:
        if method != "adalora" or not is_adapter(path):  # the ranks that are left stand next to each other
            np.testing.assert_array_equal(start[path], model.parameters[path], err_msg=path)
    if method == "adalora":
        expected = merge_parameters(model.net.graphdef, model.parameters)
        for path, value in merge_parameters(net.graphdef, start).items():
            np.testing.assert_allclose(value, expected[path], atol=1e-6, err_msg=path)
        ranks = json.loads((folder / "adapter_config.json").read_text())["rank_pattern"].values()
        assert {len(rank) for rank in ranks} == {4}
        assert (
            len(ranks) <= sum(map(sum, ranks)) < 2 * len(ranks)
        )  # the best weights may be those of half of the run
