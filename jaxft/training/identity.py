"""Decides whether a checkpoint belongs to a run."""

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jaxft.config import loading as settings
from jaxft.errors import UserError

# Settings that change no result: processes may have different ones, and a run may go on with others.
FREE = ("log.", "data.cache_dir", "checkpoint.keep")


# Those of where and by what kernels it is computed, which change results by rounding only: a run may go on with others.
MOVABLE = ("mesh.", "model.attention", "train.deterministic")


PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "transformers",
    "tokenizers",
    "datasets",
    "numpy",
)


def settings_without(config: ConfigDict, without: tuple[str, ...] = FREE) -> dict[str, Any]:
    """The settings, flat, as JSON gives them back, `without` those whose keys begin so."""
    values = settings.flat(json.loads(json.dumps(config.to_dict())))
    return {key: value for key, value in values.items() if not key.startswith(without)}


def run_identity(
    config: ConfigDict, data: list[str], labels: list[str], tokenizer: Any, order: str
) -> dict[str, Any]:
    """What must be the same for a run to go on: settings, data, the order of training, labels, tokenizer.

    data: fingerprints of the training data's parts and of dev.
    """
    vocabulary = hashlib.sha256(json.dumps(sorted(tokenizer.get_vocab().items())).encode())
    return {
        "settings": settings_without(config, FREE + MOVABLE),
        "data": hashlib.sha256(json.dumps(data).encode()).hexdigest(),
        "order": order,
        "labels": labels,
        "tokenizer": vocabulary.hexdigest(),
    }


def check_identity(meta: Mapping[str, Any], wanted: Mapping[str, Any], workdir: Path) -> None:
    """Raises `UserError` where a checkpoint's `meta` is of other settings, data, order, labels or tokenizer."""
    words = {
        "settings": "settings",
        "data": "training or dev data",
        "order": "order that jaxft trains in",
        "labels": "set of labels",
        "tokenizer": "tokenizer",
    }
    found = dict(meta["identity"])
    found["settings"] = settings_without(settings.base(), FREE + MOVABLE) | found["settings"]
    keys = [key for key in wanted if found.get(key) != wanted[key]]
    # Other settings or data are always in another order.
    changed = [words[key] for key in keys if key != "order" or len(keys) == 1]
    if changed:
        raise UserError(
            f"--workdir {workdir}: the {' and the '.join(changed)} changed since its checkpoint was saved; "
            "restore what it was, or name a new folder"
        )


def versions() -> dict[str, str]:
    """The installed versions that results depend on."""
    return {name: importlib.metadata.version(name) for name in PACKAGES}


def changed_versions(meta: Mapping[str, Any]) -> str | None:
    """A warning where a checkpoint's `meta` is of other package versions than are installed now."""
    now = versions()
    changed = [
        f"{name} {old} -> {now.get(name)}" for name, old in meta["versions"].items() if now.get(name) != old
    ]
    if not changed:
        return None
    return f"warning: packages changed since the checkpoint, so results may differ slightly: {', '.join(changed)}"
