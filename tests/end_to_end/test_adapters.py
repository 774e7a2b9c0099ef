"""Runs with adapters: resumed to the bit, with small checkpoints that name their base, evaluated and answered."""

import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxft.adapters.plan import merge_parameters
from jaxft.errors import Preempted, UserError
from jaxft.export.writer import export_run
from jaxft.inference.evaluate import evaluate_run
from jaxft.inference.model import open_model
from jaxft.training import loop
from jaxft.training.network import initial_parameters
from jaxft.training.prepare import prepare_network
from jaxft.training.run_folder.best import load_best
from jaxft.training.run_folder.frozen_base import open_base_model
from jaxft.training.run_folder.workdir import open_run
from jaxft.training.settings import load_settings
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
    frozen = (
        "bert.encoder.layer.0.intermediate.dense.weight"  # that of the base, and not what int8 has made of it
    )
    np.testing.assert_array_equal(
        merged[frozen], load_file(base / "model.safetensors")[frozen].astype(np.float32)
    )

    model = open_model(open_run(workdir), print, dtype="float32")
    values = {"model.checkpoint": base, "adapter.init_from": folder}
    flags = [*tiny_flags[2:], *(f"--config.{key}={value}" for key, value in values.items())]
    config = load_settings(tiny_flags[1], flags)
    assert (config.adapter.method, config.adapter.r) == ("lora", 2 * SETTINGS["adapter.r"])
    net = prepare_network(model.task, config, model.run.checkpoint.hf_config, model.net.mesh)
    start, line = initial_parameters(net, config, open_base_model(config, print))
    assert f"its head is kept, for it has the same {len(model.run.labels)} labels" in line
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


def test_a_run_is_resumed_to_the_bit_and_belongs_to_its_base(tiny_flags, tiny_bert, corpus, tmp_path):
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
