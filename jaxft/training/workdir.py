"""What a run's folder holds, and how it is claimed, checked and read again by the other commands."""

import errno
import fcntl
import json
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from ml_collections import ConfigDict

from jaxft.config import loading as settings
from jaxft.data.batching.batch import Batch
from jaxft.errors import UserError
from jaxft.io import read_json, write_json
from jaxft.models.pretrained_model import PretrainedModel
from jaxft.parallel import processes
from jaxft.training.identity import FREE, MOVABLE, settings_without, versions

# Open lock files by folder: a lock is this process's until it ends.
_LOCKS: dict[Path, IO] = {}


def claim(workdir: Path, config: ConfigDict) -> None:
    """Makes `workdir` this run's, or finds that it is already; process 0 does so for all, until it ends.

    Raises `UserError` where it cannot be written, another run trains in it, or it holds a run of other settings
    (which it names); where processes have other settings or packages, or don't share the folder.
    """
    processes.assert_same(
        {f"config.{key}": value for key, value in settings_without(config).items()} | versions()
    )
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
        settings_without(settings.base(), ()) | settings.flat(read_json(path)),
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
