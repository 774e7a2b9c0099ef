"""What several files of whole-program tests share."""

import io
import sys
import types

import pytest

from jaxft.data.sources.formats import UNSET, FileFormat
from jaxft.inference import predict
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
