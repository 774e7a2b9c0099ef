"""A run's folder: whose it is, and which settings it goes on with."""

import json
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from jaxft.config.settings import replace
from jaxft.data.batching.batch import Batch, Shape
from jaxft.errors import UserError
from jaxft.training.run_folder import workdir as run_folder
from jaxft.training.run_folder.best import load_best
from jaxft.training.run_folder.checkpoint import RunCheckpoints
from jaxft.training.run_folder.identity import (
    FREE,
    MOVABLE,
    check_identity,
    refuse_earlier_run,
    settings_without,
)
from jaxft.training.run_folder.workdir import (
    CHECKSUMS,
    claimed,
    open_run,
    save_batch,
    save_model_files,
    save_tuned,
)
from jaxft.training.settings import settings_from_config


def claim(folder, config):
    with claimed(folder, config):
        pass


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("config.json", b"128", b"138"),
        ("model/labels.json", b"X", b"Y"),
        ("model/vocab.txt", b"a", b"c"),
        ("model/tuned.json", b".5", b".4"),
        ("model/checksums.json", b"{", b"["),
        ("model/checksums.json", b"vocab.txt", b"x" * 300),  # too long for the name of a file
    ],
)
def test_a_file_with_a_flipped_bit_is_named(name, old, new, tmp_path, monkeypatch):
    """Another token or threshold would answer, and nobody would know."""
    claim(tmp_path, settings_from_config({"task": "token_classification"}))
    processor = SimpleNamespace(save_pretrained=lambda folder: (folder / "vocab.txt").write_text("[PAD]\na"))
    save_model_files(tmp_path, SimpleNamespace(processor=processor, hf_config={}, folder=None), ["O", "B-X"])
    save_tuned(tmp_path, {"threshold": 0.5})
    monkeypatch.setattr(run_folder, "make_data", None)  # the next that is needed
    with pytest.raises(TypeError):
        open_run(tmp_path)
    content = (tmp_path / name).read_bytes()
    assert old in content
    (tmp_path / name).write_bytes(content.replace(old, new))
    with pytest.raises(
        UserError, match=f"{name}(: it changed since the run wrote it| cannot be read| shows)"
    ):
        open_run(tmp_path)
    (tmp_path / "model" / CHECKSUMS).unlink()  # on purpose
    with pytest.raises(TypeError):
        open_run(tmp_path)


def test_a_setting_that_is_newer_than_a_run_had_its_default(tmp_path):
    """In the folder's config.json, and in what its checkpoints hold of the settings."""
    config = settings_from_config({"task": "token_classification"})
    claim(tmp_path, config)
    (tmp_path / "metrics.jsonl").write_text("{}\n")  # it has trained
    older = json.loads((tmp_path / "config.json").read_text())
    del older["optim"]["gradients"], older["train"]["deterministic"]
    (tmp_path / "config.json").write_text(json.dumps(older))
    claim(tmp_path, config)
    identity = {"settings": settings_without(config, FREE + MOVABLE), "labels": ["O"], "order": "a"}
    older_settings = {key: value for key, value in identity["settings"].items() if key != "optim.gradients"}
    check_identity({"identity": identity | {"settings": older_settings}}, identity, tmp_path)
    with pytest.raises(UserError, match="the order that jaxft trains in changed since its checkpoint"):
        check_identity(
            {"identity": identity | {"settings": older_settings, "order": "b"}}, identity, tmp_path
        )
    config = replace(config, {"optim.gradients": "bfloat16"})
    with pytest.raises(UserError, match="config.optim.gradients was 'float32', is 'bfloat16'"):
        claim(tmp_path, config)
    identity["settings"]["optim.gradients"] = "bfloat16"
    with pytest.raises(
        UserError,
        match=r"the settings \(config.optim.gradients was 'float32', is 'bfloat16'\) and the labels \('B-X' gone; "
        r"'B-Y', 'I-Y' new\) changed since its checkpoint was saved",
    ):
        check_identity(
            {"identity": identity | {"settings": older_settings, "labels": ["O", "B-X"]}},
            identity | {"labels": ["O", "B-Y", "I-Y"]},
            tmp_path,
        )


@pytest.mark.parametrize(
    "corrected",
    [
        {"task": "token_classification", "adapter.method": "lora", "adapter.target_modules": ("query",)},
        {"task": "sequence_classification"},
    ],
)
def test_a_start_that_was_refused_gives_way_to_a_corrected_one(corrected, tmp_path):
    """A wrong target module is found after the folder is claimed, and after its first files are there."""
    mistaken = {"task": "token_classification", "adapter.method": "lora"}
    claim(tmp_path, settings_from_config(mistaken | {"adapter.target_modules": ("nothing",)}))
    (tmp_path / "metrics.jsonl").touch()
    (tmp_path / "checkpoints").mkdir()
    claim(tmp_path, settings_from_config(corrected))
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["task"] == corrected["task"]
    assert config["adapter"]["target_modules"] == list(corrected.get("adapter.target_modules", ()))


def test_more_steps_in_a_folder_are_refused_with_the_way_to_go_on(tmp_path):
    config = settings_from_config({"task": "token_classification", "train.steps": 10})
    claim(tmp_path, config)
    (tmp_path / "best/10").mkdir(parents=True)
    longer = replace(config, {"train.steps": 20})
    with pytest.raises(
        UserError,
        match=f"config.train.steps was 10, is 20.*a new folder .*, --workdir NEW --config.init_from={tmp_path}$",
    ):
        claim(tmp_path, longer)
    with pytest.raises(UserError, match="config.seed was 0, is 1") as error:
        claim(tmp_path, replace(config, {"seed": 1}))
    assert "init_from" not in str(error.value)


@pytest.mark.parametrize("folder", ["checkpoints", "best"])
def test_a_run_of_an_earlier_jaxft_is_refused_whoever_opens_it(folder, tmp_path):
    """Its parameters are named `body/...`, and its config.json has settings that are gone."""
    checkpoints = RunCheckpoints(tmp_path / folder, keep=1, log=print)
    checkpoints.save(3, {"step": jnp.int32(3), "trainable": {"body/layers/mlp/up/kernel": jnp.ones(2)}}, {})
    checkpoints.close()
    (tmp_path / "best").mkdir(exist_ok=True)
    (tmp_path / "config.json").write_text('{"data": {"parts": 1}}')
    config = settings_from_config({"task": "token_classification"})
    message = f"^{tmp_path} was written by an earlier jaxft, whose parameters are named body/.*; train again, or use"
    for open_folder in (
        lambda: claim(tmp_path, config),
        lambda: open_run(tmp_path),
        lambda: load_best(tmp_path, {}, []),
    ):
        with pytest.raises(UserError, match=message):
            open_folder()
    [listed] = (tmp_path / folder).glob("*/state/_METADATA")
    listed.unlink()
    listed.mkdir()
    refuse_earlier_run(tmp_path)  # says nothing of damage, which is named where the checkpoint is needed


def test_a_batch_with_an_array_of_a_name_that_all_batches_have_is_saved(tmp_path):
    """Tasks that label texts have an array `starts`."""
    places = np.zeros((1, 2), np.int32)
    batch = Batch({"starts": places + 3, "intents/labels": places}, places, places, 5, Shape(1, 8))
    with np.load(save_batch(tmp_path, 7, batch)) as saved:
        assert set(saved) == {"windows", "starts", "intents/labels"} and (saved["starts"] == 3).all()
