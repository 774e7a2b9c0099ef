"""Saves and restores the checkpoints of a run with orbax, and detects damage to them."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import jax
import orbax.checkpoint as ocp

from jaxft.errors import UserError, first_line
from jaxft.parallel import processes
from jaxft.parallel.memory import release_memory
from jaxft.training.run_folder.tree_digest import digest_tree

Log = Callable[[str], None]
Meta: TypeAlias = dict[str, Any]  # plain values that a checkpoint keeps next to its arrays
# The bytes that are gathered in memory for each file of a checkpoint. By default orbax gathers 2 GB.
FILE_SIZE = 64 << 20
NOTES = "_CHECKPOINT_METADATA"  # orbax's file in a checkpoint's folder
_NOTES_TYPES: dict[str, type | tuple[type, ...]] = {
    "item_handlers": dict,
    "metrics": dict,
    "performance_metrics": dict,
    "custom_metadata": dict,
    "init_timestamp_nsecs": (int, type(None)),
    "commit_timestamp_nsecs": (int, type(None)),
}


class RunCheckpoints:
    """The checkpoints in one folder, with a subfolder for each step.

    Checkpoints are saved in the background. Each is complete or absent. A checkpoint holds a tree of arrays and a dict
    of plain values (`meta`), with digests of both. A failed save (a full disk) is logged and skipped; earlier
    checkpoints stay.

    With several processes, each calls every method. All write their shards into the same folder, which they must share.
    Process 0 lists and removes checkpoints. Any number of processes may restore.

    Args:
      folder: the folder of the checkpoints.
      keep: the number of newest checkpoints to keep; None for all.
      log: prints a line.
      read_only: whether to leave the folder unchanged, because another run may be saving into it.
    """

    def __init__(self, folder: Path, *, keep: int | None, log: Log, read_only: bool = False):
        self.folder, self.log, self._read_only = folder.absolute(), log, read_only
        options = (
            ocp.CheckpointManagerOptions(read_only=True)
            if read_only
            else ocp.CheckpointManagerOptions(
                max_to_keep=keep,
                create=True,
                enable_async_checkpointing=True,
                cleanup_tmp_directories=True,
            )
        )
        for step_folder in sorted(self.folder.glob("[0-9]*")):
            self._set_damaged_notes_aside(step_folder / NOTES)
        processes.broadcast(None)  # the other processes wait here until process 0 has looked
        self._manager = ocp.CheckpointManager(self.folder, options=options)
        self._saving: int | None = None

    def _set_damaged_notes_aside(self, path: Path) -> None:
        """Renames orbax's notes on a checkpoint if they are damaged; orbax could not even list the checkpoints.

        No checkpoint is lost, because they hold times only, and arrays and `meta` have digests of their own.
        """
        try:
            notes = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:  # another process has removed the checkpoint, or renamed the file
            return
        except (ValueError, RecursionError, IsADirectoryError):
            notes = None
        if isinstance(notes, dict) and all(
            isinstance(value, _NOTES_TYPES.get(key, ())) for key, value in notes.items()
        ):
            return
        if self._read_only:
            raise UserError(f"{path}: damaged, and not needed to read the checkpoint; remove the file")
        if processes.is_main_process():
            path.replace(path.with_name(path.name + ".damaged"))
            self.log(f"warning: {path} is damaged and was renamed; it held times only")

    def save(self, step: int, tree: Any, meta: Meta) -> None:
        """Starts to save `tree` and `meta` as step `step`. The caller may donate or change `tree` when it returns."""
        self.wait()
        self._remove_unfinished()  # the writers of a failed save may have continued for a while
        saved_steps = self.steps()
        digests = digest_tree(tree)
        args = ocp.args.Composite(
            state=ocp.args.PyTreeSave(tree, ocdbt_target_data_file_size=FILE_SIZE),
            meta=ocp.args.JsonSave({"meta": meta, "digests": digests, "checksum": _checksum(meta, digests)}),
        )

        def check_room() -> None:
            with tempfile.TemporaryFile(dir=self.folder):
                pass  # fails if the folder is read-only, in which case orbax would wait for its own threads for ever
            needed, disk = sum(leaf.nbytes for leaf in jax.tree.leaves(tree)), shutil.disk_usage(self.folder)
            if 0 < disk.total and disk.free < needed:  # some file systems do not report their size
                raise OSError(
                    f"it takes {needed / 2**20:,.1f} MiB, the disk has {disk.free / 2**20:,.1f} MiB left"
                )

        def start() -> None:
            processes.run_on_all(check_room)
            # Orbax copies to the host implicitly, which the training loop forbids on accelerators.
            with jax.transfer_guard_device_to_host("allow"):
                if step in saved_steps:  # by an earlier start, which was killed after the save
                    self._manager.delete(step)
                self._manager.save(step, args=args, force=True)
            self._saving = step

        self._attempt(step, start)

    def wait(self) -> None:
        """Waits until the current save is on disk or has failed. A failure is logged."""
        if self._saving is not None:
            step, self._saving = self._saving, None
            self._attempt(step, self._manager.wait_until_finished)
            release_memory()

    def close(self) -> None:
        """Finishes the current save and ends the background threads."""
        self.wait()
        self._manager.close()

    def _attempt(self, step: int, action: Callable[[], Any]) -> None:
        """Runs a phase of saving `step` in all processes. If it fails, logs that and removes unfinished files."""
        try:
            processes.run_on_all(action)
        except Exception as error:  # orbax and tensorstore raise many types for a failed write
            self._remove_unfinished()  # unfinished files take the room that the next save and the log need
            self._manager.reload()  # else the manager counts the failed checkpoint and drops good ones for it
            self.log(
                f"warning: checkpoint {step} could not be saved in {self.folder} ({first_line(error)}); the run "
                f"goes on, earlier checkpoints are kept: {self.steps() or 'none'}"
            )

    def _remove_unfinished(self) -> None:
        """Removes the files of unfinished saves; process 0 does so for all processes."""
        if not processes.is_main_process():
            return
        for unfinished in self.folder.glob("*.orbax-checkpoint-tmp*"):
            shutil.rmtree(unfinished, ignore_errors=True)

    def steps(self) -> list[int]:
        """Returns the steps of the complete checkpoints, ascending."""
        steps = ocp.utils.checkpoint_steps(self.folder) if self.folder.exists() else []
        return processes.broadcast(sorted(map(int, steps)))

    def restore(self, abstract: Callable[[Meta], Any]) -> tuple[int, Any, Meta] | None:
        """Restores the newest undamaged checkpoint.

        Newer damaged checkpoints are moved into a folder with the same name plus ".damaged".

        Args:
          abstract: called with `meta`; returns the tree of `jax.ShapeDtypeStruct`s, each with a sharding, to restore
            into; raises `UserError` if the checkpoint does not fit this run.

        Returns:
          (step, tree, meta), or None if there is no checkpoint.

        Raises:
          UserError: checkpoints exist, but all are damaged. They are not moved.
        """
        damaged: list[int] = []
        for step in reversed(self.steps()):
            try:
                tree, meta = self._read(step, abstract)
            except (UserError, MemoryError):
                raise
            except Exception as error:  # readers may raise anything for a damaged file
                if "RESOURCE_EXHAUSTED" in str(error):  # too little memory is not damage
                    raise
                damaged.append(step)
                reason = first_line(error.__cause__ or error)[:200]
                self.log(
                    f"warning: checkpoint {self.folder / str(step)} is damaged ({reason}); trying the one before"
                )
                continue
            if damaged and not self._read_only:
                processes.run_on_all(
                    lambda: self._move_damaged(damaged) if processes.is_main_process() else None
                )
                self._manager.reload()
            return step, tree, meta
        if damaged:
            raise UserError(
                f"{self.folder}: every checkpoint is damaged ({', '.join(map(str, reversed(damaged)))}); "
                + (
                    "start the command of its training again"
                    if self._read_only
                    else "remove the folder to start the run anew"
                )
            )
        return None

    def _move_damaged(self, damaged: list[int]) -> None:
        """Moves the checkpoints of these steps into the folder for damaged ones."""
        folder = self.folder.with_name(self.folder.name + ".damaged")
        folder.mkdir(exist_ok=True)
        for step in damaged:
            shutil.rmtree(folder / str(step), ignore_errors=True)
            (self.folder / str(step)).rename(folder / str(step))

    def newest_meta(self) -> Meta | None:
        """Returns the plain values of the newest checkpoint in which they are undamaged, or None."""
        for step in reversed(self.steps()):
            try:
                return self._read_meta(step)[0]
            except Exception:  # readers may raise anything for a damaged file; `restore` says so
                continue
        return None

    def _read_meta(self, step: int) -> tuple[Meta, list[int]]:
        """Returns (meta, digests) of checkpoint `step`. Raises an exception of any type if they are damaged."""
        args = ocp.args.Composite(meta=ocp.args.JsonRestore())
        saved = processes.run_on_all(lambda: self._manager.restore(step, args=args).meta)
        meta, digests = saved["meta"], saved["digests"]
        if saved["checksum"] != _checksum(meta, digests):
            raise ValueError("wrong checksum of its meta data")
        return meta, digests

    def _read(self, step: int, abstract: Callable[[Meta], Any]) -> tuple[Any, Meta]:
        """Returns the tree and meta of checkpoint `step`. Raises an exception of any type if it is damaged."""
        restore = self._manager.restore
        meta, digests = self._read_meta(step)
        target = abstract(meta)
        restore_args = ocp.checkpoint_utils.construct_restore_args(target)
        args = ocp.args.Composite(state=ocp.args.PyTreeRestore(target, restore_args=restore_args))
        tree = processes.run_on_all(lambda: restore(step, args=args).state)
        actual_digests = digest_tree(tree)
        if actual_digests != digests:
            names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
            damaged = [n for n, a, b in zip(names, actual_digests, digests, strict=True) if a != b]
            raise ValueError(f"wrong digest of {damaged[0]}")
        return tree, meta


def _checksum(meta: Meta, digests: list[int]) -> str:
    """Returns the SHA-256 of a checkpoint's plain values."""
    return hashlib.sha256(json.dumps([meta, digests], sort_keys=True).encode()).hexdigest()
