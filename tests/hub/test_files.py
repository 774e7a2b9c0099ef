"""Model folders: config.json as it is read, and new folders that are complete or not there."""

import errno
import os
import resource

import numpy as np
import pytest
from safetensors.numpy import load_file

from jaxft.errors import UserError
from jaxft.hub.files import read_config, write_model_folder


@pytest.fixture
def tensors():
    return {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(2, np.float32)}


def test_a_config_that_is_missing_or_broken_is_named(tmp_path):
    with pytest.raises(UserError, match="has no config.json; expected a checkpoint folder"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text('{"hidden_size": ')
    with pytest.raises(UserError, match="config.json: not valid JSON"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(UserError, match="expected a JSON object, found list"):
        read_config(tmp_path)


def test_a_folder_is_written_whole_or_not_at_all(tmp_path, tensors):
    out = tmp_path / "new" / "out"
    config = {"model_type": "bert", "layer_norm_eps": 1e-12, "name": "Zoë"}

    for number, message in (
        (errno.ENOSPC, "cannot be written: No space left on device; make room there, or name another place"),
        (errno.EROFS, "cannot be written: Read-only file system; name a place that you may write to"),
    ):

        def fail(unfinished, number=number):
            path = unfinished / "model.safetensors"
            assert path.is_file()
            raise OSError(number, os.strerror(number), str(path))

        with pytest.raises(UserError, match=f"^{out}: {message}$"):
            write_model_folder(out, tensors, config, write_extras=fail)
        assert list(out.parent.iterdir()) == []
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limits[1]))
    try:  # safetensors' own error
        with pytest.raises(UserError, match=f"^{out}: cannot be written: File too large; make room there"):
            write_model_folder(out, {"a": np.zeros(1 << 16, np.float32)}, config)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(out.parent.iterdir()) == []

    write_model_folder(
        out, tensors, config, write_extras=lambda folder: (folder / "README.md").write_text("card")
    )
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert list(out.parent.iterdir()) == [out]
    assert read_config(out) == config
    assert all(np.array_equal(load_file(out / "model.safetensors")[n], t) for n, t in tensors.items())
    with pytest.raises(UserError, match="exists already and is not an empty folder"):
        write_model_folder(out, tensors, config)
    assert (out / "README.md").read_text() == "card"
