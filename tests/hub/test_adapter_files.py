"""Files of adapters: what is written is what PEFT reads, under the names that it uses, and the other way around."""

import json

import huggingface_hub
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxft.errors import UserError
from jaxft.hub.adapter_files import read_adapter, write_adapter_folder


def test_names_have_pefts_prefix_and_come_back_without_it(tmp_path):
    tensors = {"classifier.weight": np.ones((2, 3), np.float32)}
    folder = tmp_path / "adapter"
    write_adapter_folder(folder, tensors, {"peft_type": "LORA"}, lambda path: (path / "README.md").touch())
    assert load_file(folder / "adapter_model.safetensors").keys() == {"base_model.model.classifier.weight"}
    assert (folder / "README.md").exists()
    adapter = read_adapter(str(folder))
    assert adapter.config == {"peft_type": "LORA"} and adapter.tensors.keys() == tensors.keys()
    np.testing.assert_array_equal(adapter.tensors["classifier.weight"], tensors["classifier.weight"])


def test_biases_of_adapted_modules_have_their_names_and_copies_are_left_out(tmp_path):
    names = ("query.base_layer.bias", "head.bias", "head.original_module.bias", "head.modules_to_save.bias")
    tensors = {f"base_model.model.{name}": np.ones(1, np.float32) for name in names}
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    assert set(read_adapter(str(tmp_path)).tensors) == {"query.bias", "head.bias"}


def test_an_adapter_on_the_hub_is_read_without_its_pickles(tmp_path, monkeypatch):
    save_file({"base_model.model.head.bias": np.ones(1, np.float32)}, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    calls = []

    def snapshot_download(name, **options):
        calls.append((name, options["revision"], options["allow_patterns"]))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert set(read_adapter("org/adapter@v2").tensors) == {"head.bias"}
    [(name, revision, patterns)] = calls
    assert (name, revision) == ("org/adapter", "v2")
    assert {"adapter_config.json", "adapter_model.safetensors"} <= set(patterns)
    assert not any(pattern.endswith((".bin", "*")) for pattern in patterns)


def test_a_folder_without_an_adapter_says_what_it_lacks(tmp_path):
    with pytest.raises(UserError, match=r"'no-adapter': no such .* its path as config\.adapter\.init_from;"):
        read_adapter("no-adapter")
    with pytest.raises(UserError, match="has no adapter_config.json; expected the folder of an adapter"):
        read_adapter(str(tmp_path))
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match="has no 'peft_type'"):
        read_adapter(str(tmp_path))
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    with pytest.raises(UserError, match="as adapter_model.safetensors, found none"):
        read_adapter(str(tmp_path))
    (tmp_path / "adapter_model.bin").touch()
    with pytest.raises(
        UserError, match="only adapter_model.bin, a pickle, .*; open the adapter in PEFT, and write it"
    ):
        read_adapter(str(tmp_path))
    (tmp_path / "adapter_model.safetensors").write_bytes(b"x" * 30)
    with pytest.raises(UserError, match="damaged or not a safetensors file"):
        read_adapter(str(tmp_path))
