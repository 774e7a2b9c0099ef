"""The library: what `jaxft.train` and `Run` do is what the commands do, in a process that they leave as it was."""

import json
import logging
import signal
import subprocess
import sys
import threading

import jax
import numpy as np
import pytest
import torch

import jaxft
from jaxft.data.sources.tagged_sentences.sentences import read_sentences


def test_import_loads_neither_jax_nor_transformers():
    script = "import sys, jaxft; print(*sys.modules); print(*dir(jaxft))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    modules, names = (line.split() for line in done.stdout.splitlines())
    assert not {"jax", "numpy", "transformers", "ml_collections"} & set(modules)
    assert names == sorted([*jaxft.__all__, "__version__"]) and all(hasattr(jaxft, name) for name in names)


def flag_settings(flags) -> dict[str, str]:
    return dict(
        flag.removeprefix("--config.").split("=", 1) for flag in flags if flag.startswith("--config.")
    )


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
    settings = flag_settings(tiny_flags) | {"data.cache_dir": "off"}
    sets = {name: records(path) for name, path in corpus.items()}
    for name in corpus:
        del settings[f"data.{name}"]
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


def weights(folder) -> dict[str, bytes]:
    [best] = (folder / "best").iterdir()
    return {path.name: path.read_bytes() for path in best.glob("state/**/d/*")}


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
