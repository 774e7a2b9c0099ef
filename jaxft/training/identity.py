"""Decides whether a checkpoint belongs to a run."""

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxft.config.sections import Settings
from jaxft.config.settings import defaults, flatten
from jaxft.errors import UserError
from jaxft.tasks.registry import schema_of

# Settings that change no result: processes may have different ones, and a run may go on with others.
FREE = ("log.", "data.cache_dir", "checkpoint.keep")

# Settings of where and by which kernels a run computes. They change results by rounding only, so a run may go on with
# others.
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


def refuse_earlier_run(workdir: Path) -> None:
    """Raises `UserError` if the run in `workdir` is of a jaxft that named parameters `body/...`, not `backbone/...`."""
    for metadata in workdir.glob("*/*/state/_METADATA"):  # orbax lists the paths of the parameters in it
        if '"body/' in metadata.read_text(encoding="utf-8", errors="replace"):
            raise UserError(
                f"{workdir} was written by an earlier jaxft, whose parameters are named body/...; train again, or use "
                "the version that wrote it"
            )


def settings_without(config: Settings, without: tuple[str, ...] = FREE) -> dict[str, Any]:
    """Returns the settings by dotted key, as JSON gives them back, but those whose keys begin with `without`."""
    return _drop(plain_settings(flatten(config)), without)


def _drop(values: Mapping[str, Any], prefixes: tuple[str, ...]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if not key.startswith(prefixes)}


def plain_settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns settings by key as JSON gives them back, so that they compare with what a file holds."""
    return json.loads(json.dumps(dict(values)))


def make_identity(
    config: Settings, data: list[str], labels: list[str], tokenizer: Any, order: str
) -> dict[str, Any]:
    """Returns what must stay the same for a run to go on.

    Args:
      config: the run's settings.
      data: fingerprints of the shards of the training data and of the dev split.
      labels: the task's labels.
      tokenizer: its vocabulary counts.
      order: names the order in which the loader deals windows.
    """
    vocabulary = hashlib.sha256(json.dumps(sorted(tokenizer.get_vocab().items())).encode())
    return {
        "settings": settings_without(config, FREE + MOVABLE),
        "data": hashlib.sha256(json.dumps(data).encode()).hexdigest(),
        "order": order,
        "labels": labels,
        "tokenizer": vocabulary.hexdigest(),
    }


def check_identity(meta: Mapping[str, Any], identity: Mapping[str, Any], workdir: Path) -> None:
    """Raises `UserError` if a checkpoint's `meta` has other settings, data, order, labels or tokenizer.

    Args:
      meta: the plain values of the checkpoint; `meta["identity"]` is what `make_identity` returned for it.
      identity: what `make_identity` returns for this run.
      workdir: the run's folder, for the message.
    """
    words = {
        "settings": "settings",
        "data": "training or dev data",
        "order": "order that jaxft trains in",
        "labels": "set of labels",
        "tokenizer": "tokenizer",
    }
    saved = dict(meta["identity"])
    # If a setting is newer than the checkpoint, the run had what is now its default.
    newest = plain_settings(defaults(schema_of(identity["settings"]["task"]).root))
    saved["settings"] = _drop(newest, FREE + MOVABLE) | saved["settings"]
    keys = [key for key in identity if saved.get(key) != identity[key]]
    # Other settings or data always come in another order: then the order is not worth naming.
    changed = [words[key] for key in keys if key != "order" or len(keys) == 1]
    if changed:
        raise UserError(
            f"--workdir {workdir}: the {' and the '.join(changed)} changed since its checkpoint was saved; "
            "restore what it was, or name a new folder"
        )


def installed_versions() -> dict[str, str]:
    """Returns the installed version of every package that results depend on."""
    return {name: importlib.metadata.version(name) for name in PACKAGES}


def describe_changed_versions(meta: Mapping[str, Any]) -> str | None:
    """Returns a warning if other package versions are installed than when `meta` was saved, else None."""
    now = installed_versions()
    changed = [
        f"{name} {old} -> {now.get(name)}" for name, old in meta["versions"].items() if now.get(name) != old
    ]
    if not changed:
        return None
    return f"warning: packages changed since the checkpoint, so results may differ slightly: {', '.join(changed)}"
