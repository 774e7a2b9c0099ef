"""Decides whether a checkpoint belongs to a run."""

import contextlib
import hashlib
import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxft.config.sections import Settings
from jaxft.config.settings import defaults, flatten
from jaxft.errors import UserError
from jaxft.hub.processors import Processor
from jaxft.tasks.registry import schema_of

# Settings that change no result. They may differ between processes, and when a run resumes.
FREE = (
    "log.",
    *("data.cache_dir", "data.max_pixels", "data.max_text", "data.workers"),
    *("checkpoint.keep", "checkpoint.best_only"),
)

# Settings that say where and by which kernels a run computes. They change results only by rounding, so they may differ
# when a run resumes.
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
    "pillow",
)


def refuse_earlier_run(workdir: Path) -> None:
    """Raises `UserError` if an earlier jaxft wrote the run in `workdir` and named parameters `body/...`."""
    for metadata in workdir.glob("*/*/state/_METADATA"):  # orbax lists the paths of parameters there
        text = ""
        with contextlib.suppress(OSError):  # damage is named by whoever needs the checkpoint
            text = metadata.read_text(encoding="utf-8", errors="replace")
        if '"body/' in text:
            raise UserError(
                f"{workdir} was written by an earlier jaxft, whose parameters are named body/...; train again, or use "
                "the version that wrote it"
            )


def settings_without(config: Settings, without: tuple[str, ...] = FREE) -> dict[str, Any]:
    """Returns the settings by dotted key, in JSON's types, except those whose keys begin with `without`."""
    return _drop(plain_settings(flatten(config)), without)


def _drop(values: Mapping[str, Any], prefixes: tuple[str, ...]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if not key.startswith(prefixes)}


def plain_settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns settings by key in JSON's types, so that they can be compared with the content of a file."""
    return json.loads(json.dumps(dict(values)))


def make_identity(
    config: Settings, data: list[str], labels: list[str], processor: Processor, order: str
) -> dict[str, Any]:
    """Returns the values that must stay the same for a run to resume.

    Args:
      config: the run's settings.
      data: the fingerprints of the training data's shards and of the dev split.
      labels: the task's labels.
      processor: the model's processor.
      order: the name of the order in which the loader deals windows.
    """
    return {
        "settings": settings_without(config, FREE + MOVABLE),
        "data": hashlib.sha256(json.dumps(data).encode()).hexdigest(),
        "order": order,
        "labels": labels,
        "tokenizer": processor.fingerprint,
    }


def check_identity(meta: Mapping[str, Any], identity: Mapping[str, Any], workdir: Path) -> None:
    """Raises `UserError` if a checkpoint's `meta` has other settings, data, order, labels or tokenizer.

    Args:
      meta: the checkpoint's plain values; `meta["identity"]` is the result of `make_identity` for its run.
      identity: the result of `make_identity` for this run.
      workdir: the run's folder, for the message.
    """
    saved = dict(meta["identity"])
    # If a setting is newer than the checkpoint, the checkpoint's run behaved like its default.
    newest = plain_settings(defaults(schema_of(identity["settings"]["task"]).root))
    saved["settings"] = _drop(newest, FREE + MOVABLE) | saved["settings"]
    keys = [key for key in identity if saved.get(key) != identity[key]]
    # With other settings or data the order always differs too, so it need not be named.
    changed = [_describe_change(key, saved, identity) for key in keys if key != "order" or len(keys) == 1]
    if changed:
        raise UserError(
            f"--workdir {workdir}: {' and '.join(changed)} changed since its checkpoint was saved; "
            "restore what it was, or name a new folder"
        )


def _describe_change(key: str, saved: Mapping[str, Any], identity: Mapping[str, Any]) -> str:
    """Returns a phrase that names what changed in the value of `key`, with the values before and after."""
    settings = identity["settings"]
    if key == "settings":
        return f"the settings ({'; '.join(describe_changed_settings(saved['settings'], settings))})"
    if key == "data":
        names = [f"config.data.{name}={settings.get(f'data.{name}')!r}" for name in ("train", "dev")]
        return f"the content of {' or '.join(names)}, the training or dev data"
    if key == "labels":
        old, new = saved.get("labels", []), identity["labels"]
        phrases = [
            f"{', '.join(map(repr, lost))} gone" for lost in [[x for x in old if x not in new]] if lost
        ]
        phrases += [
            f"{', '.join(map(repr, more))} new" for more in [[x for x in new if x not in old]] if more
        ]
        return f"the labels ({'; '.join(phrases) or 'in another order'})"
    return "the order that jaxft trains in" if key == "order" else "the tokenizer or the image processor"


def describe_changed_settings(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Returns a phrase for each setting that may not change in a run and did, with both values.

    Args:
      old: the run's settings by key, in JSON's types.
      new: the settings of this start, in the same form.
    """
    return [
        f"config.{key} was {old.get(key)!r}, is {new.get(key)!r}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and not key.startswith(FREE + MOVABLE)
    ]


def installed_versions() -> dict[str, str]:
    """Returns the installed version of every package that results depend on."""
    return {name: importlib.metadata.version(name) for name in PACKAGES}


def describe_changed_versions(meta: Mapping[str, Any]) -> str | None:
    """Returns a warning if package versions have changed since `meta` was saved, else None."""
    now = installed_versions()
    changed = [
        f"{name} {old} -> {now.get(name)}" for name, old in meta["versions"].items() if now.get(name) != old
    ]
    if not changed:
        return None
    return f"warning: packages changed since the checkpoint, so results may differ slightly: {', '.join(changed)}"
