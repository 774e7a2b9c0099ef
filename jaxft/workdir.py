"""What a run's folder holds, and how it is claimed, checked and read again by the other commands."""

import dataclasses
import errno
import fcntl
import hashlib
import importlib.metadata
import json
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import IO, Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxft.checkpoint import Checkpoints
from jaxft.config import loading as settings
from jaxft.data.batching.batch import Batch
from jaxft.errors import UserError
from jaxft.hub.files import read_config
from jaxft.hub.tokenizers import load_tokenizer
from jaxft.models.pretrained_model import PretrainedModel
from jaxft.parallel import processes
from jaxft.report import write_json
from jaxft.tasks.base import Task

# Settings that change no result: processes may have different ones, and a run may go on with others.
FREE = ("log.", "data.cache_dir", "checkpoint.keep")
# Those of where and by what kernels it is computed, which change results by rounding only: a run may go on with others.
MOVABLE = ("mesh.", "model.attention", "train.deterministic")

OF_LABELS = (
    "precision",
    "recall",
    "f1",
    "support",
    "threshold",
)  # endings of metrics that there are of each label
# Endings of metrics that are the better the smaller they are.
MINIMISED = ("loss", "perplexity", "bits_per_byte", "calibration_error", "mse", "mae")

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


# Open lock files by folder: a lock is this process's until it ends.
_LOCKS: dict[Path, IO] = {}


def claim(workdir: Path, config: ConfigDict) -> None:
    """Makes `workdir` this run's, or finds that it is already; process 0 does so for all, until it ends.

    Raises `UserError` where it cannot be written, another run trains in it, or it holds a run of other settings
    (which it names); where processes have other settings or packages, or don't share the folder.
    """
    processes.assert_same({f"config.{key}": value for key, value in _settings(config).items()} | versions())
    if processes.is_main_process():
        _claim(workdir, config)
    processes.broadcast(None)  # it is claimed
    seen = processes.gather((workdir / "config.json").is_file())
    if not all(seen):
        raise UserError(
            f"--workdir {workdir}: process {seen.index(False)} doesn't see what process 0 has written there; all "
            "processes save into one folder: name one that they share"
        )


def _claim(workdir: Path, config: ConfigDict) -> None:
    path = workdir / "config.json"
    wanted_config = json.loads(json.dumps(config.to_dict()))
    try:
        if not path.exists():
            if workdir.exists() and any(entry.name != "config.json.tmp" for entry in workdir.iterdir()):
                raise UserError(
                    f"--workdir {workdir} holds files but no jaxft run (no config.json); name a new or empty folder"
                )
            write_json(path, wanted_config)
        else:  # a folder that was made read-only since must fail here, not hours later
            with open(workdir / "metrics.jsonl", "a"):
                pass
    except OSError as error:
        raise UserError(f"--workdir {workdir} cannot be written: {error}; name another folder") from None
    # A setting that is newer than the run had what is now its default.
    found, wanted = (
        _settings(settings.base(), ()) | settings.flat(read_json(path)),
        settings.flat(wanted_config),
    )
    changed = [
        f"config.{key} was {found.get(key)!r}, is {wanted.get(key)!r}"
        for key in sorted(found.keys() | wanted.keys())
        if found.get(key) != wanted.get(key) and not key.startswith(FREE + MOVABLE)
    ]
    if changed and _trained(workdir):
        raise UserError(
            f"--workdir {workdir} holds a run of other settings: {'; '.join(changed)}. "
            "Name a new folder, or give that run's settings to go on with it"
        )
    _lock(workdir)
    if changed:  # a start that failed, by a typing mistake say: nothing there depends on its settings
        write_json(path, wanted_config)


def _lock(workdir: Path) -> None:
    if (key := workdir.resolve()) in _LOCKS:
        return
    file = open(workdir / "lock", "a")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            file.close()
            raise UserError(
                f"--workdir {workdir}: another process trains in it; wait for its end, or name another folder"
            ) from None
        # A file system without locks: nothing is guarded there, as before.
    _LOCKS[key] = file


def _trained(workdir: Path) -> bool:
    """Whether the run in `workdir` has got as far as numbers or checkpoints."""
    metrics = workdir / "metrics.jsonl"
    kept = [folder for name in ("checkpoints", "best") if (folder := workdir / name).is_dir()]
    return (metrics.exists() and metrics.stat().st_size > 0) or any(any(f.iterdir()) for f in kept)


def _settings(config: ConfigDict, without: tuple[str, ...] = FREE) -> dict[str, Any]:
    """The settings, flat, as JSON gives them back, `without` those whose keys begin so."""
    values = settings.flat(json.loads(json.dumps(config.to_dict())))
    return {key: value for key, value in values.items() if not key.startswith(without)}


def identity(
    config: ConfigDict, data: list[str], labels: list[str], tokenizer: Any, order: str
) -> dict[str, Any]:
    """What must be the same for a run to go on: settings, data, the order of training, labels, tokenizer.

    data: fingerprints of the training data's parts and of dev.
    """
    vocabulary = hashlib.sha256(json.dumps(sorted(tokenizer.get_vocab().items())).encode())
    return {
        "settings": _settings(config, FREE + MOVABLE),
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
    found["settings"] = _settings(settings.base(), FREE + MOVABLE) | found["settings"]
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


def save_model_files(workdir: Path, checkpoint: PretrainedModel, labels: list[str]) -> None:
    """Keeps the checkpoint's config.json and tokenizer and the labels, so that the run stands on its own."""
    if not processes.is_main_process():
        return
    folder = workdir / "model"
    folder.mkdir(exist_ok=True)
    checkpoint.tokenizer.save_pretrained(folder)
    write_json(folder / "config.json", checkpoint.hf_config)
    write_json(folder / "labels.json", labels)
    write_json(workdir / "versions.json", versions())


def save_tuned(workdir: Path, tuned: Mapping[str, Any]) -> None:
    """Keeps what a task chose on the dev split, with the weights that it chose it for."""
    if tuned:
        write_json(workdir / "model" / "tuned.json", dict(tuned))


def save_batch(workdir: Path, step: int, batch: Batch) -> Path:
    """Writes the arrays of a batch that made the loss non-finite, each process the rows that it fed."""
    process = f".process_{processes.index()}" if processes.count() > 1 else ""
    path = workdir / f"non_finite_step_{step}{process}.npz"
    np.savez(path, windows=batch.windows, starts=batch.starts, **batch.arrays)
    return path


def selection_metric(config: ConfigDict, task: Task, measured: Collection[str]) -> str:
    """The name of the metric that chooses weights; `UserError` names what was `measured` where it isn't among that."""
    name = task.selection_metric if config.eval.metric == "auto" else config.eval.metric
    if name not in measured:
        raise UserError(
            f"config.eval.metric={name!r} was not measured; measured: {', '.join(sorted(measured))}"
        )
    if len({_minimised(part) for part in name.split("+")}) > 1:
        raise UserError(
            f"config.eval.metric={name!r} adds up what should grow and what should shrink; name metrics of one kind"
        )
    return name


def _minimised(metric: str) -> bool:
    """Whether less of it is better; "f1/loss" is a label's F1, "topic/loss" a task's loss."""
    *before, last = metric.strip().split("/")
    return last.endswith(MINIMISED) and not (before and before[-1].endswith(OF_LABELS))


def better(metric: str, value: float, best: float | None) -> bool:
    """Whether `value` of `metric` beats `best`: losses and the like are minimised, others maximised."""
    sign = -1 if _minimised(metric.partition("+")[0]) else 1
    return math.isfinite(value) and (best is None or sign * value > sign * best)


def load_best(
    workdir: Path, abstract: Mapping[str, jax.ShapeDtypeStruct], labels: list[str], say=print
) -> dict[str, jax.Array]:
    """The best parameters of the run in `workdir`, into the shapes and shardings of `abstract`.

    Raises `UserError` where there are none, or they are of other shapes or of other `labels`.
    """
    folder = workdir / "best"
    if not folder.is_dir():
        raise UserError(
            f"{workdir} has no weights: there is no folder {folder}; is it a run that was evaluated?"
        )
    checkpoints = Checkpoints(folder, keep=None, say=say, read_only=True)

    def fitting(meta: Mapping[str, Any]) -> dict[str, jax.ShapeDtypeStruct]:
        shapes = {name: list(leaf.shape) for name, leaf in abstract.items()}
        differing = sorted(
            name
            for name in shapes.keys() | meta["shapes"].keys()
            if shapes.get(name) != meta["shapes"].get(name)
        )
        if differing:
            name = differing[0]
            raise UserError(
                f"{folder}: parameter {name!r} has shape {meta['shapes'].get(name)} there and "
                f"{shapes.get(name)} in this model ({len(differing)} differ); start from a run of the same "
                "checkpoint and labels"
            )
        if meta["labels"] != labels:
            raise UserError(
                f"{folder}: its labels are {', '.join(meta['labels'])}; this run's are {', '.join(labels)}: the head "
                "would mean something else; start from a run of the same labels"
            )
        return dict(abstract)

    restored = checkpoints.restore(fitting)
    checkpoints.close()
    if restored is None:
        raise UserError(f"{folder} holds no complete checkpoint; let the run reach its first evaluation")
    return restored[1]


def best_meta(
    parameters: Mapping[str, Any], labels: list[str], values: Mapping[str, float]
) -> dict[str, Any]:
    """What is kept beside the best parameters."""
    shapes = {name: list(p.shape) for name, p in parameters.items()}
    return {"metrics": dict(values), "labels": labels, "shapes": shapes}


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished or running run, opened for reading."""

    workdir: Path
    config: ConfigDict
    checkpoint: PretrainedModel
    labels: list[str]
    tuned: dict[str, Any]  # what the task chose on the dev split; empty until the run has ended

    @property
    def body(self) -> str:
        """The network's name, for people."""
        return {"bert": "BERT", "gpt2": "GPT-2"}[self.checkpoint.hf_config["model_type"]]


def open_run(workdir: Path) -> Run:
    """The settings, tokenizer, sizes and labels of the run in `workdir`; needs neither its data nor a hub."""
    if not (workdir / "config.json").is_file():
        raise UserError(f"--run {workdir}: no jaxft run there (no config.json); name the --workdir of a run")
    config = settings.from_dict(read_json(workdir / "config.json"), str(workdir / "config.json"))
    processes.assert_same({f"config.{key}": value for key, value in _settings(config).items()} | versions())
    folder = workdir / "model"
    labels = read_json(folder / "labels.json")
    checkpoint = PretrainedModel(config.model.checkpoint, folder, read_config(folder), load_tokenizer(folder))
    tuned = read_json(path) if (path := folder / "tuned.json").exists() else {}
    return Run(workdir, config, checkpoint, labels, tuned)


def read_json(path: Path) -> Any:
    """The value in a JSON file that a run wrote; `UserError` where it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{path} is missing: the run there has not started, or its folder is not whole"
        ) from None
    except (ValueError, OSError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
