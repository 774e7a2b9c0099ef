"""The library: what `jaxft.train` and `Run` do is what the commands do, in a process that they leave as it was."""

import doctest
import json
import logging
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import weakref

import datasets
import jax
import numpy as np
import pandas
import pytest
import torch

import jaxft
from jaxft.data.sources.records import in_memory
from jaxft.data.sources.tagged_sentences.sentences import read_sentences
from jaxft.inference import model as inference_model
from jaxft.run import _keep
from jaxft.tasks.registry import make_data
from jaxft.training.run_folder.workdir import claimed


def test_import_loads_neither_jax_nor_transformers():
    script = "import sys, jaxft; print(*sys.modules); print(*dir(jaxft))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    modules, names = (line.split() for line in done.stdout.splitlines())
    assert not {"jax", "numpy", "transformers", "ml_collections"} & set(modules)
    assert names == sorted([*jaxft.__all__, "__version__"]) and all(hasattr(jaxft, name) for name in names)


def settings_of(flags) -> dict[str, str]:
    """The settings of a command's flags, without its data."""
    pairs = (flag.removeprefix("--config.").split("=", 1) for flag in flags if flag.startswith("--config."))
    return {key: value for key, value in pairs if key not in ("data.train", "data.dev", "data.test")}


def records(path) -> list[dict]:
    return [{"tokens": s.words, "tags": s.tags} for s in read_sentences(path)]


class Listener(jaxft.Callback):
    """Keeps what it hears."""

    def __init__(self):
        self.heard = []

    def on_log(self, step, values):
        self.heard.append(("train", step, values))

    def on_evaluation(self, step, values):
        self.heard.append(("dev", step, values))

    def on_end(self, summary):
        self.heard.append(("end", summary["steps"]))


def process_state():
    """What a run could leave installed in its process."""
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGABRT)]
    loggers = [
        (logging.getLogger(n).level, logging.getLogger(n).handlers[:]) for n in (None, "absl", "asyncio")
    ]
    listeners = len(jax._src.monitoring.get_event_listeners())
    streams = sys.stdout, sys.stderr, sys.excepthook, sys.unraisablehook, threading.excepthook
    return handlers, loggers, listeners, streams, signal.set_wakeup_fd(-1)


@pytest.fixture(scope="module")
def listener():
    return Listener()


@pytest.fixture(scope="module")
def trained(tiny_flags, corpus, listener, tmp_path_factory):
    """The run of `finished_run`, trained by the library in a thread, on records in memory."""
    settings = settings_of(tiny_flags) | {"data.cache_dir": "off"}
    sets = {name: records(path) for name, path in corpus.items()}
    workdir = tmp_path_factory.mktemp("runs") / "library"
    metrics = {
        "wrong_words": lambda state: (
            state.tokens.confusion.total() * (1 - state.tokens.compute()["token_accuracy"])
        )
    }
    state, runs = process_state(), []

    def work():
        runs.append(
            jaxft.train("ner", str(workdir), **sets, callbacks=[listener], metrics=metrics, **settings)
        )

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert process_state() == state
    [run] = runs
    return run


def test_records_in_a_thread_beside_torch_give_the_bits_of_the_command_with_files(trained, finished_run):
    assert torch.zeros(1).item() == 0
    command, library = (
        json.loads((run / "summary.json").read_text()) for run in (finished_run, trained.folder)
    )
    assert library["best_step"] == command["best_step"] and library["late_compiles"] == 0
    assert library["dev"].pop("wrong_words") > 0
    library["test"].pop("wrong_words")
    assert (library["dev"], library["test"]) == (command["dev"], command["test"])
    opened = [jaxft.Run.open(folder) for folder in (finished_run, trained.workdir)]
    first, second = (run._predictor._model.parameters for run in opened)
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_what_a_run_has_measured(trained, listener, finished_run):
    logged = [line for line in trained.history if line["kind"] == "train"]
    dev = [line for line in trained.history if line["kind"] == "dev"]
    assert [line["step"] for line in dev] == [20, 40, 60, 80, 100] and len(logged) == 25
    assert all("wrong_words" in line for line in dev)
    *heard, end = listener.heard
    assert end == ("end", 100)
    assert [{"step": step, "kind": kind} | values for kind, step, values in heard] == trained.history
    labels, counts = trained.confusion["dev"]
    assert set(trained.labels) <= set(labels) and counts.sum() == trained.summary["dev"]["token_support"]
    accuracy = counts.diagonal().sum() / counts.sum()
    assert accuracy == trained.summary["dev"]["token_accuracy"]
    assert trained.config.data.train.startswith("records:train/sha256-") and repr(trained).startswith(
        "Run('/"
    )


def test_a_text_in_a_warm_process_computes_the_row_for_one(trained, monkeypatch):
    shapes = []
    compute = inference_model.predict_batches

    def note(net, programs, parameters, loader):
        shapes.extend(loader.shapes)
        return compute(net, programs, parameters, loader)

    monkeypatch.setattr(inference_model, "predict_batches", note)
    answer = trained.predict("Ann Smith lives in Rome .")
    assert answer["text"] == "Ann Smith lives in Rome ." and isinstance(answer["entities"], list)
    assert [(shape.rows, shape.length) for shape in shapes] == [(1, 64)]


def test_predictions_for_all_kinds_of_records(trained, corpus):
    assert trained.predict([]) == []
    rows = records(corpus["test"])
    answers = trained.predict([{"tokens": row["tokens"]} for row in rows])
    lines = (trained.folder / "predictions/test.conll").read_text().split("\n\n")
    expected = [[line.split("\t")[2] for line in sentence.splitlines()] for sentence in lines if sentence]
    assert [answer["predicted_tags"] for answer in answers] == expected
    for kind in (pandas.DataFrame, datasets.Dataset.from_pandas):
        table = pandas.DataFrame({"tokens": [row["tokens"] for row in rows]})
        table_answers = trained.predict(kind(table))
        assert [answer["predicted_tags"] for answer in table_answers] == expected
    with pytest.raises(jaxft.UserError, match="input, record 2: no tokens"):
        trained.predict(["a text", {"txt": "a text"}])


def test_evaluate_measures_the_records_of_the_run_or_says_that_they_are_gone(
    trained, corpus, tmp_path, capsys, monkeypatch
):
    measured = trained.evaluate(output=tmp_path / "again")
    test = {name: value for name, value in trained.summary["test"].items() if name != "wrong_words"}
    assert measured == test and "every entity counts as unseen" not in capsys.readouterr().out
    monkeypatch.setattr(in_memory, "_KEPT", weakref.WeakValueDictionary())  # as in another program
    opened = jaxft.Run.open(str(trained.folder))
    with pytest.raises(jaxft.UserError, match="^records:test/sha256-.* give the same records again, or name"):
        opened.evaluate()
    assert opened.evaluate(records(corpus["test"])) == measured
    assert "without the training data every entity counts as unseen (records:train" in capsys.readouterr().out


def test_a_callback_ends_a_run_which_stays_ended_for_the_same_records_only(tiny_flags, corpus, tmp_path):
    class StopAt(jaxft.Callback):
        def on_log(self, step, values):
            return step >= 4

    settings = settings_of(tiny_flags) | {"train.steps": 60, "checkpoint.every_steps": None}
    sets = {name: records(corpus[name]) for name in ("train", "dev")}
    settings |= {"eval.every_steps": 60, "eval.metric": "words", "eval.bootstrap": 0}
    metrics = {"words": lambda state: state.tokens.confusion.total()}

    def train(**options):
        return jaxft.train("ner", tmp_path, **sets | options, metrics=metrics, **settings)

    state = process_state()
    run = train(callbacks=[StopAt()])
    assert process_state() == state  # in the main thread a run also handles signals
    assert 4 <= run.summary["steps"] < 12 and run.summary["best_step"] == run.summary["steps"]
    assert run.summary["selected_by"] == "words" and run.summary["dev"]["words"] > 100
    assert json.loads((tmp_path / "eval/dev.json").read_text())["metrics"]["words"] > 100
    (tmp_path / "summary.json").unlink()  # as if it had been killed before
    assert train().summary["steps"] == run.summary["steps"]
    with pytest.raises(
        jaxft.UserError, match="config.data.dev was 'records:dev/sha256-.*', is 'records:dev/"
    ):
        train(dev=sets["dev"][1:])
    with (
        claimed(tmp_path, run.config),
        pytest.raises(jaxft.UserError, match="this process trains in it already"),
    ):
        train()


def test_several_tasks_read_the_records_of_each(tmp_path):
    texts = [{"text": "book a table", "intents": ["book"]}, {"text": "good bye", "intents": []}]
    words = pandas.DataFrame({"tokens": [["for", "two"]], "tags": [["O", "B-people"]]})
    kept = []
    address = _keep("train", {"intents": texts, "slots": words}, kept)
    config = jaxft.load_config("nlupp", **{"data.train": address, "data.dev": None})
    read = make_data(config).read("train", address, print)
    assert [sorted(text.examples) for text in read] == [["intents"], ["intents"], ["slots"]]
    with pytest.raises(jaxft.UserError, match="^dev: a dict, .*but the run has one; give a list of records"):
        jaxft.train("ner", tmp_path / "run", dev={"tokens": [["a"]], "tags": [["O"]]})
    with pytest.raises(jaxft.UserError, match="config.optim.lr takes a number"):
        jaxft.train("ner", tmp_path / "run", optim={"lr": "much"})
    with pytest.raises(jaxft.UserError, match="takes text, found list; jaxft.train takes records as its"):
        jaxft.train({"task": "token_classification", "data.train": [{}]}, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_data_and_settings_in_the_place_of_each_other_are_named(tmp_path):
    table = pandas.DataFrame({"text": ["a", "b"], "label": ["x", "y"]})
    for arguments, message in (
        ({"train": {"steps": 30}}, r'^train: settings, where .*; write \*\*\{"train.steps": 30\}$'),
        (
            {"data": {"train": table}},
            "takes text, found DataFrame; jaxft.train takes records as its argument train$",
        ),
        ({"train_dataset": table}, "^train_dataset: no argument .* give the data as train$"),
        ({"train": table["text"]}, r"^train: data of type Series; expected .* by its method tolist\(\)$"),
        (
            {"train": [{f"key {n}": n for n in range(40)}]},
            r"no keys 'text' and 'label' in \['key 0', .*\] and 10 more; ",
        ),
        ({"callbacks": 3}, "^callbacks: expected a list of jaxft.Callback, found 3$"),
        ({"metrics": [len]}, "^metrics: expected a dict of functions by name, found "),
    ):
        with pytest.raises(jaxft.UserError, match=message):
            jaxft.train("sentiment", tmp_path / "run", **arguments)


class LastLines(doctest.OutputChecker):
    """Checks the value of an example, which comes after the lines that a run prints."""

    def check_output(self, want, got, optionflags):
        count = len(want.splitlines())
        return count == 0 or super().check_output(want, "".join(got.splitlines(True)[-count:]), optionflags)


def test_the_examples_of_every_public_name(trained, tiny_flags, corpus, tmp_path, monkeypatch):
    """They run in a folder with a finished run, runs/ner, and a recipe and data of a tiny one."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained.folder, "runs/ner")
    settings = settings_of(tiny_flags) | {
        "task": "token_classification",
        "train.steps": 4,
        "eval.every_steps": 4,
    }
    pathlib.Path("my_ner.yaml").write_text(json.dumps(settings))
    lines = [json.dumps(record) + "\n" for name in ("dev", "train") for record in records(corpus[name])]
    pathlib.Path("sentences.jsonl").write_text("".join(lines))
    finder, runner = doctest.DocTestFinder(recurse=False), doctest.DocTestRunner(LastLines())
    members = {f"Run.{name}": value for name, value in vars(jaxft.Run).items() if not name.startswith("_")}
    members |= {name: getattr(jaxft, name) for name in jaxft.__all__}
    for name, member in members.items():
        globs = {"jaxft": jaxft, "json": json, "run": jaxft.Run("runs/ner")}
        [test] = finder.find(member, name, globs=globs, module=False)
        assert test.examples, f"{name} has no example"
        runner.run(test)
    assert not runner.failures
