"""Manages the folder of a run: claims it, writes the files that make the run self-contained, and opens it to read."""

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import jaxft
from jaxft.config.recipes import flatten_values
from jaxft.config.sections import Settings
from jaxft.config.settings import defaults, flatten, to_dict
from jaxft.data.batching.batch import Batch
from jaxft.errors import UserError
from jaxft.hub.adapter_files import CONFIG as ADAPTER_CONFIG
from jaxft.hub.files import read_config
from jaxft.hub.model_card import read_card_fields
from jaxft.io.files import folders_named, read_json, write_json
from jaxft.models.pretrained_model import PretrainedModel
from jaxft.parallel import processes, rendezvous
from jaxft.tasks.registry import make_data
from jaxft.tasks.run_facts import AnyRunFacts
from jaxft.training.run_folder.identity import (
    describe_changed_settings,
    installed_versions,
    plain_settings,
    refuse_earlier_run,
    settings_without,
)
from jaxft.training.run_folder.remote_folder import fetch_run
from jaxft.training.settings import settings_from_config

LENGTHS = ("train.epochs", "train.steps", "train.examples")  # the settings of a run's length

# In model/: what the base checkpoint's model card says of its licence and language.
BASE_CARD = "base_card.json"

# In model/: the checksums of the files that opening the run reads, but of the card, which people may correct.
CHECKSUMS = "checksums.json"

# Files of starts that ended before they claimed the folder.
UNCLAIMED = ("config.json.tmp", rendezvous.TOKEN_FILE)

# The folders that runs of this process have locked.
_LOCKED: set[Path] = set()


@contextlib.contextmanager
def claimed(workdir: Path, config: Settings) -> Iterator[None]:
    """Claims `workdir` for this run while the block trains in it.

    With several processes, process 0 claims it for all of them.

    Raises:
      UserError: the folder cannot be written, another run trains in it, it holds a run with other settings (which the
        message names), or processes differ in settings or package versions or do not share the folder.
    """
    _assert_same_settings(config)
    with contextlib.ExitStack() as lock:
        if processes.is_main_process():
            _claim(workdir, config, lock)
        processes.broadcast(None)  # the other processes wait here until the folder is claimed
        sees_config = processes.gather((workdir / "config.json").is_file())
        if not all(sees_config):
            raise UserError(
                f"--workdir {workdir}: process {sees_config.index(False)} doesn't see what process 0 has written "
                "there; all processes save into one folder: name one that they share"
            )
        yield


def _assert_same_settings(config: Settings) -> None:
    """Raises `UserError` if processes differ in settings that change results, or in package versions."""
    processes.assert_same(
        {f"config.{key}": value for key, value in settings_without(config).items()} | installed_versions()
    )


def _claim(workdir: Path, config: Settings, lock: contextlib.ExitStack) -> None:
    """Claims `workdir` for this process until `lock` is closed; see `claimed`."""
    refuse_earlier_run(workdir)
    path = workdir / "config.json"
    run_config = to_dict(config)
    try:
        if not path.exists():
            if workdir.exists() and any(entry.name not in UNCLAIMED for entry in workdir.iterdir()):
                raise UserError(
                    f"--workdir {workdir} holds files but no jaxft run (no config.json); name a new or empty folder"
                )
            write_json(path, run_config)
        else:  # a folder that has become read-only must fail here, not hours later
            with open(workdir / "metrics.jsonl", "a"):
                pass
    except OSError as error:
        raise UserError(f"--workdir {workdir} cannot be written: {error}; name another folder") from None
    # If a setting is newer than the run, the run behaved like its default.
    old = plain_settings(defaults(type(config))) | flatten_values(read_json(path), str(path))
    new = plain_settings(flatten(config))
    changed = describe_changed_settings(old, new)
    if changed and _has_trained(workdir):
        message = (
            f"--workdir {workdir} holds a run of other settings: {'; '.join(changed)}. "
            "Name a new folder, or give that run's settings to go on with it"
        )
        if any(old.get(key) != new.get(key) for key in LENGTHS) and (workdir / "best").is_dir():
            message += (
                f". A run's length is part of its learning rate's course: to train for longer, start a new folder from "
                f"its best weights, --workdir NEW --config.init_from={workdir}"
            )
        raise UserError(message)
    _lock(workdir, lock)
    if changed:  # an earlier start failed, perhaps for a typing mistake: nothing depends on its settings
        write_json(path, run_config)


def _lock(workdir: Path, lock: contextlib.ExitStack) -> None:
    """Locks the folder until `lock` is closed. Raises `UserError` if another run has locked it."""
    advice = "wait for its end, or name another folder"
    if (folder := workdir.resolve()) in _LOCKED:  # the system's lock keeps out other processes only
        raise UserError(f"--workdir {workdir}: this process trains in it already; {advice}")
    with folders_named(workdir / "lock"):
        file = open(workdir / "lock", "a")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            file.close()
            raise UserError(f"--workdir {workdir}: another process trains in it; {advice}") from None
        # Other errors mean a file system without locks. The folder then stays unlocked.
    _LOCKED.add(folder)
    lock.callback(_LOCKED.discard, folder)
    lock.callback(file.close)


def _has_trained(workdir: Path) -> bool:
    """Returns whether the run in `workdir` has written metrics or checkpoints."""
    metrics = workdir / "metrics.jsonl"
    folders = [folder for name in ("checkpoints", "best") if (folder := workdir / name).is_dir()]
    return (metrics.exists() and metrics.stat().st_size > 0) or any(any(f.iterdir()) for f in folders)


def save_model_files(workdir: Path, checkpoint: PretrainedModel, labels: list[str]) -> None:
    """Writes the checkpoint's config.json, processor and licence, and the labels, so that the run is self-contained."""
    if not processes.is_main_process():
        return
    folder = workdir / "model"
    folder.mkdir(exist_ok=True)
    checkpoint.processor.save_pretrained(folder)
    write_json(folder / "config.json", checkpoint.hf_config)
    write_json(folder / "labels.json", labels)
    if checkpoint.folder is not None:
        base_card = checkpoint.folder / BASE_CARD  # of a run that started from a checkpoint with a card
        if card := read_json(base_card) if base_card.is_file() else read_card_fields(checkpoint.folder):
            write_json(folder / BASE_CARD, card)
    write_json(workdir / "versions.json", {"jaxft": jaxft.__version__} | installed_versions())
    _save_checksums(workdir)


def save_tuned(workdir: Path, tuned: Mapping[str, Any]) -> None:
    """Writes the values that a task chose on the dev split, such as thresholds, next to the model files."""
    if tuned:
        write_json(workdir / "model" / "tuned.json", dict(tuned))
        _save_checksums(workdir)


def _save_checksums(workdir: Path) -> None:
    """Writes the SHA-256 of the files that opening the run reads, by path; weights have digests of their own."""
    paths = [workdir / "config.json", *sorted((workdir / "model").iterdir())]
    digests = {
        str(path.relative_to(workdir)): _hash_file(path)
        for path in paths
        if path.is_file() and path.name not in (CHECKSUMS, BASE_CARD)
    }
    write_json(workdir / "model" / CHECKSUMS, digests)


def _check_files(workdir: Path) -> None:
    """Raises `UserError` for a file of a run that differs from its checksum. Runs without checksums are not checked."""
    path = workdir / "model" / CHECKSUMS
    if not path.exists():
        return
    digests = read_json(path)
    for name, digest in digests.items() if isinstance(digests, dict) else [(CHECKSUMS, "")]:
        changed = _hash_file(file) != digest if os.path.isfile(file := workdir / name) else None
        if changed is not False:
            raise UserError(
                f"{file}: {'it changed since' if changed else 'missing, but'} the run wrote it, as {path} shows; put "
                f"back a copy of it, or, if you changed it on purpose, remove {path}"
            )


def _hash_file(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_batch(workdir: Path, step: int, batch: Batch) -> Path:
    """Writes the arrays of a batch that made the loss non-finite. Each process writes the rows that it fed.

    Returns:
      The path of this process's .npz file.
    """
    process = f".process_{processes.index()}" if processes.count() > 1 else ""
    path = workdir / f"non_finite_step_{step}{process}.npz"
    arrays: dict[str, Any] = {"windows": batch.windows, "starts": batch.starts} | batch.arrays
    np.savez(path, **arrays)
    return path


@dataclasses.dataclass(frozen=True)
class Run(AnyRunFacts):
    """A finished or running run, opened for reading. `workdir` is its folder."""

    workdir: Path


def open_run(workdir: Path) -> Run:
    """Opens the run in `workdir` for reading: settings, processor, model config and labels.

    It needs neither the run's data nor a hub.

    Raises:
      UserError: there is no run, its files are damaged, or its settings differ between processes.
    """
    workdir = fetch_run(workdir)
    if (workdir / ADAPTER_CONFIG).is_file():
        raise UserError(
            f"--run {workdir}: expected a run, found an adapter in PEFT's files; jaxft predict takes it as --adapter"
        )
    if not (workdir / "config.json").is_file():
        raise UserError(f"--run {workdir}: no jaxft run there (no config.json); name the --workdir of a run")
    refuse_earlier_run(workdir)
    _check_files(workdir)
    config = settings_from_config(read_json(workdir / "config.json"), str(workdir / "config.json"))
    _assert_same_settings(config)
    folder = workdir / "model"
    labels = read_json(folder / "labels.json")
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise UserError(f"{folder / 'labels.json'}: damaged; expected a list of the labels' names")
    hf_config, processor = read_config(folder), make_data(config).load_processor(folder)
    checkpoint = PretrainedModel(config.model.checkpoint, folder, hf_config, processor)
    tuned = read_json(path) if (path := folder / "tuned.json").exists() else {}
    if not isinstance(tuned, dict):
        raise UserError(f"{path}: damaged; expected an object of the values that were tuned")
    return Run(config, checkpoint, labels, tuned, workdir)
