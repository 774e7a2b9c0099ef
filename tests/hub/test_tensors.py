"""Tensors of a checkpoint: from one file or several, and the errors for files that are missing or broken."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxft.errors import UserError
from jaxft.hub.tensors import open_tensors


@pytest.fixture
def tensors():
    return {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(2, np.float32)}


def test_weights_only_as_a_pickle_say_why_not_and_how_to_convert(tmp_path):
    with pytest.raises(UserError, match="found none.*jaxft convert FOLDER_OR_HUB_ID --output NEW_FOLDER"):
        open_tensors(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(
        UserError, match=f"found only pytorch_model.bin.* never loaded; .*jaxft convert {tmp_path}"
    ):
        open_tensors(tmp_path)


def test_an_adapter_in_place_of_weights_is_named(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(
        UserError, match="found an adapter; give it as config.adapter.init_from, and its base"
    ):
        open_tensors(tmp_path)


def test_single_and_sharded_weights_are_the_same_tensors(tmp_path, tensors):
    save_file({"a": tensors["a"]}, tmp_path / "model-00001-of-00002.safetensors")
    save_file({"b": tensors["b"]}, tmp_path / "model-00002-of-00002.safetensors")
    weight_map = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    sharded = open_tensors(tmp_path)
    assert sorted(sharded) == ["a", "b"] and len(sharded) == 2
    assert all(np.array_equal(sharded[name], tensor) for name, tensor in tensors.items())
    save_file(tensors, tmp_path / "model.safetensors")
    single = open_tensors(tmp_path)
    assert all(np.array_equal(single[name], tensor) for name, tensor in tensors.items())


def test_a_broken_index_or_shard_is_named(tmp_path, tensors):
    def index(weight_map):
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))

    save_file(tensors, tmp_path / "1.safetensors")
    index({})
    with pytest.raises(UserError, match="expected an object 'weight_map'"):
        open_tensors(tmp_path)
    index({"a": "2.safetensors"})
    with pytest.raises(UserError, match="names the shard '2.safetensors', which is not there"):
        open_tensors(tmp_path)
    index({"a": "../1.safetensors"})
    with pytest.raises(UserError, match="is not a file name in the same folder"):
        open_tensors(tmp_path)
    index({"c": "1.safetensors"})
    with pytest.raises(UserError, match="says that '1.safetensors' has the tensor 'c', but it has not"):
        open_tensors(tmp_path)
    content = (tmp_path / "1.safetensors").read_bytes()
    for broken in (b"", b"garbage", content[:-4]):
        (tmp_path / "model.safetensors").write_bytes(broken)
        with pytest.raises(UserError, match="model.safetensors: damaged or not a safetensors file"):
            open_tensors(tmp_path)


@pytest.mark.parametrize(
    "shard", [None, 3, ["x"], {}, "", ".", "../model-1.safetensors", "gone.safetensors", "\0"]
)
def test_an_index_that_names_no_file_is_refused(shard, tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
    with pytest.raises(
        UserError, match="index.json: .*(not a file name in the same folder|which is not there)"
    ):
        open_tensors(tmp_path)


def test_a_dtype_that_is_not_loaded_is_named_with_those_that_are(tmp_path):
    import torch
    from safetensors.torch import save_file as save_torch_file

    save_torch_file({"a": torch.ones(2).to(torch.float8_e4m3fn)}, tmp_path / "model.safetensors")
    with pytest.raises(
        UserError, match="the tensor 'a' has dtype F8_E4M3; expected one of F64, F32, F16, BF16"
    ):
        open_tensors(tmp_path)["a"]
