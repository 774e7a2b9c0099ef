"""Adds heads and a loader for PyTorch to an export if transformers has no class for the model."""

import shutil
from pathlib import Path

import jax
import numpy as np
from safetensors.numpy import save_file

from jaxft.inference.model import Model
from jaxft.io.files import write_json
from jaxft.models.registry import family_of
from jaxft.tasks.exports import ExportedHead
from jaxft.tasks.registry import make_export
from jaxft.training import step

# The file that is copied into the export. It runs only there.
LOADER = Path(__file__).parent / "heads_loader.py"


def list_heads(model: Model) -> dict[str, ExportedHead]:
    """Returns the heads of a model by name."""
    network = step.merge_model(model.net.graphdef, model.parameters)
    return make_export(model.run).list_heads(model.task, network)


def tagging_heads(heads: dict[str, ExportedHead]) -> list[str]:
    """Returns the names of the heads that label words."""
    return [name for name, head in heads.items() if head.export.labels_words]


def write_heads(model: Model, folder: Path) -> None:
    """Writes heads.safetensors, heads.json and the loader into `folder`. The loader's docstring describes the files."""
    heads, tensors, descriptions = list_heads(model), {}, {}
    for name, head in heads.items():
        head_parameters = {
            f"head/{path.removeprefix(head.prefix)}": value
            for path, value in model.parameters.items()
            if path.startswith(head.prefix)
        }
        linear = head.export.to_transformers(head.task, jax.device_get(head_parameters))
        kernel = linear["head/kernel"]
        tensors[f"{name}.weight"] = np.ascontiguousarray(kernel.T)
        tensors[f"{name}.bias"] = linear.get("head/bias", np.zeros(kernel.shape[-1], kernel.dtype))
        if "head/dense/kernel" in linear:
            zeros = np.zeros(len(kernel), kernel.dtype)
            tensors[f"{name}.dense.weight"] = np.ascontiguousarray(linear["head/dense/kernel"].T)
            tensors[f"{name}.dense.bias"] = linear.get("head/dense/bias", zeros)
            if "head/norm/scale" in linear:
                tensors[f"{name}.norm.weight"] = linear["head/norm/scale"]
                tensors[f"{name}.norm.bias"] = linear.get("head/norm/bias", zeros)
        decoding = head.export.decoding_tensors(head.task, head.model)
        tensors |= {f"{name}.{key}": value for key, value in decoding.items()}
        task = {"task": head.export.run.config.task, "labels": head.task.labels}
        descriptions[name] = task | head.export.describe_head()
    save_file(tensors, folder / "heads.safetensors")
    family = family_of(model.run.checkpoint.hf_config)
    has_pooler = any(description.get("pool") == "pooler" for description in descriptions.values())
    description = {
        "tasks": descriptions,
        "reading": make_export(model.run).describe_reading(),
        "backbone": {
            "options": {"add_pooling_layer": has_pooler} if family.has_pooler else {},
            "token_types": model.net.model_config.reads_token_types,
        },
    }
    write_json(folder / "heads.json", description)
    shutil.copyfile(LOADER, folder / LOADER.name)
