"""Models of images are opened from folders, object stores and the hub with all files that they need."""

import shutil
import uuid

import fsspec
import huggingface_hub
import pytest
import torch
import transformers
from huggingface_hub.utils import filter_repo_objects
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from jaxft.tasks.image_classification.model import open_image_model
from jaxft.training.settings import settings_from_config


@pytest.fixture
def folder(tmp_path):
    """A tiny ViT with its processor, as transformers saves them, next to files that nobody needs."""
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        image_size=16,
        patch_size=8,
    )
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path / "vit")
    ViTImageProcessorPil(size=16, image_mean=[0.1, 0.2, 0.3]).save_pretrained(tmp_path / "vit")
    (tmp_path / "vit" / "tf_model.h5").write_bytes(b"weights of another framework")
    return tmp_path / "vit"


def open_model(address):
    return open_image_model(
        settings_from_config(
            {"task": "image_classification", "model.checkpoint": address, "data.image_size": 16}
        )
    )


@pytest.mark.parametrize("place", ["store", "hub"])
def test_a_model_of_images_comes_with_its_processor(place, folder, tmp_path, monkeypatch):
    if place == "store":
        address = f"memory://{uuid.uuid4().hex}/vit"
        for file in folder.iterdir():
            fsspec.filesystem("memory").pipe_file(f"{address}/{file.name}", file.read_bytes())
    else:
        address = "org/vit"

        def snapshot_download(name, *, allow_patterns, **options):
            copy = tmp_path / name
            copy.mkdir(parents=True, exist_ok=True)
            for file in filter_repo_objects(
                [path.name for path in folder.iterdir()], allow_patterns=allow_patterns
            ):
                shutil.copy(folder / file, copy)
            return str(copy)

        monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    local, fetched = open_model(str(folder)), open_model(address)
    assert fetched.processor == local.processor and fetched.processor.to_hf()["image_mean"] == [0.1, 0.2, 0.3]
    assert fetched.hf_config == local.hf_config
    assert not (fetched.folder / "tf_model.h5").exists()
