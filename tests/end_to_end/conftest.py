"""What several files of whole-program tests share."""

import io
import subprocess
import sys
import types

import pytest

from jaxft.data.sources.formats import UNSET, FileFormat
from jaxft.inference import answering, predict
from jaxft.inference.model import open_model

# Prints the MiB by which predict or evaluate takes more for the second input than for the first.
MEMORY_SCRIPT = """
import resource, sys
from pathlib import Path
from jaxft.inference.evaluate import evaluate_run
from jaxft.inference.predict import predict_file

verb, run, output, *inputs = sys.argv[2:]
peaks = []
for number, source in enumerate(inputs):
    if verb == "predict":
        predict_file(Path(run), source, output)
    else:
        evaluate_run(Path(run), source, Path(f"{output}-{number}"))
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print((peaks[1] - peaks[0]) // 1024)
"""


@pytest.fixture
def memory_of_long_text(python, environment, tmp_path):
    """Returns the MiB by which a text of 1.5 MB raises the peak of a process that has answered a short one.

    Its arguments are the run, the name of the input, a function from a text to the input, and the verb.
    """

    def measure(run, name: str, make_input, verb: str = "predict") -> int:
        inputs = [tmp_path / f"{length}-{name}" for length in ("short", "long")]
        for path, count in zip(inputs, (2, 44_000), strict=True):
            path.write_text(make_input("the company will open an office . " * count), encoding="utf-8")
        done = subprocess.run(
            [*python, "-c", MEMORY_SCRIPT, "", verb, run, tmp_path / "output", *inputs],
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        more = int(done.stdout.split()[-1])
        print(f"{name}: {more} MiB")
        return more

    return measure


@pytest.fixture
def predicted(monkeypatch, tmp_path):
    """Runs predict on bytes, from a file or, without a name, from stdin; gives the output."""
    models = {}

    def open_once(run, log):
        if run.workdir not in models:
            models[run.workdir] = open_model(run, log)
        return models[run.workdir]

    monkeypatch.setattr(answering, "open_model", open_once)

    def run(folder, content: bytes, name: str = "", format=UNSET, **options) -> bytes:
        source = str(tmp_path / name) if name else "-"
        if name:
            (tmp_path / name).write_bytes(content)
        else:
            monkeypatch.setattr(
                sys, "stdin", types.SimpleNamespace(buffer=io.BufferedReader(io.BytesIO(content)))
            )
        format = FileFormat(format) if isinstance(format, str) else format
        predict.predict_file(folder, source, str(tmp_path / "output"), format=format, **options)
        return (tmp_path / "output").read_bytes()

    return run
