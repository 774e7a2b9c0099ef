"""Pickled weights become safetensors with the same tensors, whole or not at all; no code in a pickle is run."""

import errno
import json
import os
import pathlib
import pickle
import stat

import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import BertConfig, BertForMaskedLM

from jaxft.cli.convert import convert
from jaxft.errors import UserError
from jaxft.export import pickled_weights
from jaxft.export.pickled_weights import convert_checkpoint
from jaxft.hub.addresses import CONFIG_PATTERNS
from jaxft.hub.tensors import open_tensors

TENSORS = {
    "float": torch.arange(6.0).reshape(2, 3),
    "half": torch.tensor([1.5, -2.0]).half(),
    "bfloat": torch.tensor([[1.5, float("nan")]]).bfloat16(),
    "ids": torch.arange(4),
    "transposed": torch.arange(6.0).reshape(2, 3).T,
    "scalar": torch.tensor(3.0),
    "empty": torch.zeros(0, 2),
    "parameter": torch.nn.Parameter(torch.ones(2)),
}


@pytest.fixture
def checkpoint(tmp_path):
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "bert"}')
    (folder / "vocab.txt").write_text("[UNK]\n")
    (folder / "README.md").write_text("card")
    (folder / "code.py").write_text("")
    return folder


def assert_is(path, tensors):
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {"format": "pt"} and set(file.keys()) == set(tensors)
        for name, tensor in tensors.items():
            read = file.get_tensor(name)
            assert read.dtype == tensor.dtype and torch.equal(read.nan_to_num(7), tensor.nan_to_num(7)), name


@pytest.mark.parametrize("is_new_format", [True, False])
def test_all_tensors_are_kept_in_the_folder_itself_or_a_new_one(is_new_format, checkpoint, tmp_path, capsys):
    """Views and tensors that share memory, as tied embeddings do, become tensors of their own."""
    tensors = TENSORS | {"tied": TENSORS["float"], "row": TENSORS["float"][1], "again": TENSORS["float"][1:]}
    torch.save(tensors, checkpoint / "pytorch_model.bin", _use_new_zipfile_serialization=is_new_format)
    convert([str(checkpoint), "--output", str(tmp_path / "new")])
    assert f"{tmp_path}/new/model.safetensors: the same tensors" in capsys.readouterr().out
    assert_is(tmp_path / "new" / "model.safetensors", tensors)
    names = ["README.md", "config.json", "model.safetensors", "vocab.txt"]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == names
    assert not (checkpoint / "model.safetensors").exists()
    assert convert_checkpoint(str(checkpoint)) == checkpoint / "model.safetensors"
    assert_is(checkpoint / "model.safetensors", tensors)
    assert stat.S_IMODE(os.stat(checkpoint / "model.safetensors").st_mode) == stat.S_IMODE(
        os.stat(checkpoint / "config.json").st_mode
    )
    for output in (None, tmp_path / "new"):
        with pytest.raises(UserError, match="has model.safetensors already|exists already"):
            convert_checkpoint(str(checkpoint), output)


def test_shards_become_one_file(checkpoint):
    items = list(TENSORS.items())
    torch.save(dict(items[:3]), checkpoint / "pytorch_model-00001-of-00002.bin")
    index = {name: f"pytorch_model-0000{1 + (n > 2)}-of-00002.bin" for n, name in enumerate(TENSORS)}
    (checkpoint / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": index}))
    with pytest.raises(UserError, match="00002-of-00002.bin: not found, although the index names it"):
        convert_checkpoint(str(checkpoint))
    torch.save(dict(items[3:]), checkpoint / "pytorch_model-00002-of-00002.bin")
    assert_is(convert_checkpoint(str(checkpoint)), TENSORS)
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / "pytorch_model.bin.index.json").write_text('{"weight_map": {"a": "../x.bin"}}')
    with pytest.raises(UserError, match="expected an object 'weight_map'"):
        convert_checkpoint(str(checkpoint))


def test_a_model_as_transformers_saved_it_loads_with_the_same_values(checkpoint):
    config = BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    model = BertForMaskedLM(config)  # its decoder is tied to its embeddings
    torch.save(model.state_dict(), checkpoint / "pytorch_model.bin")
    convert_checkpoint(str(checkpoint))
    tensors = open_tensors(checkpoint)
    assert set(tensors) == set(model.state_dict())
    for name, tensor in model.state_dict().items():
        np.testing.assert_array_equal(tensors[name], tensor.numpy())


class Harmful:
    def __reduce__(self):
        return pathlib.Path.touch, (pathlib.Path("harmed"),)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_no_code_is_run_and_what_is_not_weights_is_refused(checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = checkpoint / "pytorch_model.bin"
    with pytest.raises(UserError, match="has no weights to convert; expected pytorch_model.bin or"):
        convert_checkpoint(str(checkpoint))

    def refused(message):
        with pytest.raises(UserError, match=message):
            convert_checkpoint(str(checkpoint))
        assert not (tmp_path / "harmed").exists()
        assert sorted(p.name for p in checkpoint.iterdir() if "safetensors" in p.name) == []

    for content in (pickle.dumps({"a": Harmful()}), b"", b"hello", pickle.dumps(Harmful())):
        path.write_bytes(content)
        refused("cannot load it as tensors alone: it is damaged, or holds objects that could run code")
    torch.save({"a": torch.ones(2), "b": Harmful()}, path)
    refused("cannot load it as tensors alone")
    torch.save({"a": torch.ones(2)}, path)
    path.write_bytes(path.read_bytes()[:-20])
    refused("cannot load it as tensors alone")
    for values, message in (
        ([torch.ones(2)], "expected tensors by name, found list"),
        ({}, "expected tensors by name, found dict"),
        (
            {"state_dict": {"a": torch.ones(2)}},
            "found dict under 'state_dict'; is it the state of a training",
        ),
        ({"a": torch.ones(2).to_sparse()}, "expected dense tensors by name, found Tensor under 'a'"),
    ):
        torch.save(values, path)
        refused(message)


@pytest.mark.parametrize(
    "change",
    [{"ids": torch.arange(4) + 1}, {"ids": torch.arange(5)}, {"ids": torch.arange(4.0)}, {"ids": None}],
)
def test_a_file_that_is_not_read_back_the_same_does_not_appear(change, checkpoint, tmp_path, monkeypatch):
    import safetensors.torch

    torch.save(TENSORS, checkpoint / "pytorch_model.bin")
    save_file = safetensors.torch.save_file

    def save_other(tensors, path, **options):
        changed = {name: tensor for name, tensor in (tensors | change).items() if tensor is not None}
        save_file(changed, path, **options)

    monkeypatch.setattr(safetensors.torch, "save_file", save_other)
    for output in (None, tmp_path / "new"):
        with pytest.raises(
            UserError, match="the tensor 'ids' is not read back from the disk as it was written"
        ):
            convert_checkpoint(str(checkpoint), output)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]
    assert not [path for path in checkpoint.iterdir() if "safetensors" in path.name]


def test_a_disk_that_is_full_leaves_nothing(checkpoint, tmp_path, monkeypatch):
    import safetensors.torch

    torch.save(TENSORS, checkpoint / "pytorch_model.bin")

    def fail(tensors, path, **options):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", fail)
    for output in (None, tmp_path / "new"):
        with pytest.raises(UserError, match="cannot be written: No space left on device; make room there"):
            convert_checkpoint(str(checkpoint), output)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]
    assert not [path for path in checkpoint.iterdir() if "safetensors" in path.name]


def test_a_hub_id_is_downloaded_with_its_pickles_and_needs_a_place(checkpoint, tmp_path, monkeypatch, capsys):
    import huggingface_hub

    patterns = []
    torch.save(TENSORS, checkpoint / "pytorch_model.bin")

    def snapshot_download(name, *, revision, allow_patterns):
        patterns.extend(allow_patterns)
        return str(checkpoint)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert_is(convert_checkpoint("org/name@v1", tmp_path / "new"), TENSORS)
    assert patterns == [*CONFIG_PATTERNS, "pytorch_model*.bin", "pytorch_model.bin.index.json"]
    with pytest.raises(SystemExit) as exit:
        convert(["org/name"])
    assert exit.value.code == 2 and "name a new one for the result, --output" in capsys.readouterr().err


def test_torch_is_asked_for(checkpoint, monkeypatch):
    monkeypatch.setattr(pickled_weights.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="torch, which is not installed: pip install torch"):
        convert_checkpoint(str(checkpoint))
