"""What several files of whole-program tests share."""

import argparse
import io
import sys
import types

import pytest

from jaxft.cli import predict
from jaxft.inference.model import open_model


@pytest.fixture
def predicted(monkeypatch, tmp_path):
    """Runs predict on bytes, from a file or, without a name, from stdin; gives the output."""
    models = {}

    def open_once(run, log):
        if run.workdir not in models:
            models[run.workdir] = open_model(run, log)
        return models[run.workdir]

    monkeypatch.setattr(predict, "open_model", open_once)

    def run(folder, content: bytes, name: str = "", format: str = "auto") -> bytes:
        source = str(tmp_path / name) if name else "-"
        if name:
            (tmp_path / name).write_bytes(content)
        else:
            monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(content)))
        flags = {"run": folder, "input": source, "output": str(tmp_path / "output"), "format": format}
        predict.run_predict(argparse.Namespace(**flags, word_column=None))
        return (tmp_path / "output").read_bytes()

    return run
