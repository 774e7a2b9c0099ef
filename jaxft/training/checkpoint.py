"""Orbax checkpoints of a run: the last N train states, the best parameters, and how damage is found."""

import hashlib
import json
import logging
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from jaxft.errors import UserError
from jaxft.parallel import processes
from jaxft.parallel.memory import release_memory

Log = Callable[[str], None]
# Bytes of data that are gathered in memory for a file of a checkpoint; by default orbax holds 2 GB.
FILE_SIZE = 64 << 20
# orbax tells every phase of every save, and a failed one with a trace from each thread; `Checkpoints` says it once.
for _name in ("absl", "asyncio"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)


def tree_digest(tree: Any) -> list[int]:
    """One number of 32 bits a leaf of `tree`: a sum over its bits, weighted by position, modulo 2^32.

    Integer sums do not depend on order, so the digest is the same on any mesh; a changed bit changes it,
    since every position's weight is odd. A leaf after the other: a CPU makes the terms of a sum before it adds them up.
    """
    return [int(jax.device_get(_leaf_digest(leaf))) for leaf in jax.tree.leaves(tree)]


@jax.jit
def _leaf_digest(x: jax.Array) -> jax.Array:
    bits = jax.lax.bitcast_convert_type(x, jnp.dtype(f"uint{8 * x.dtype.itemsize}")).reshape(-1)
    index = jax.lax.iota(jnp.uint32, bits.size)
    return jnp.sum(bits.astype(jnp.uint32) * (index * jnp.uint32(0x9E3779B2) + jnp.uint32(1)))


class RunCheckpoints:
    """Checkpoints in one folder, a subfolder a step; saved in the background, each complete or not there.

    A checkpoint holds a tree of arrays and a dict of plain values (`meta`), with digests of both. A save that
    fails (a full disk) is said and skipped; earlier checkpoints stay. `read_only` leaves the folder as it is,
    whatever is found there: another run may be saving into it.

    Several processes call each method together. All write their parts into the one folder, which they must
    share; process 0 looks what is there, and takes away. Any number of processes may restore.
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
        self._manager = ocp.CheckpointManager(self.folder, options=options)
        self._saving: int | None = None

    def save(self, step: int, tree: Any, meta: dict) -> None:
        """Starts to save `tree` as step `step`; `tree` may be donated or changed once this returns."""
        self.wait()
        self._remove_unfinished()  # writers of a save that failed may have gone on for a while
        known = self.steps()
        digests = tree_digest(tree)
        args = ocp.args.Composite(
            state=ocp.args.PyTreeSave(tree, ocdbt_target_data_file_size=FILE_SIZE),
            meta=ocp.args.JsonSave({"meta": meta, "digests": digests, "checksum": _checksum(meta, digests)}),
        )

        def check_room() -> None:
            with tempfile.TemporaryFile(dir=self.folder):
                pass  # fails here where the folder is read-only: orbax would wait for its own threads for ever
            needed, disk = sum(leaf.nbytes for leaf in jax.tree.leaves(tree)), shutil.disk_usage(self.folder)
            if 0 < disk.total and disk.free < needed:  # some file systems do not tell
                raise OSError(
                    f"it takes {needed / 2**20:,.1f} MiB, the disk has {disk.free / 2**20:,.1f} MiB left"
                )

        def start() -> None:
            processes.run_on_all(check_room)
            # Orbax copies to the host without saying so, which the training loop forbids on accelerators.
            with jax.transfer_guard_device_to_host("allow"):
                if step in known:  # of an earlier start that was killed after it
                    self._manager.delete(step)
                self._manager.save(step, args=args, force=True)
            self._saving = step

        self._attempt(step, start)

    def wait(self) -> None:
        """Returns when the save under way is on disk or has failed (which is said)."""
        if self._saving is not None:
            step, self._saving = self._saving, None
            self._attempt(step, self._manager.wait_until_finished)
            release_memory()

    def close(self) -> None:
        """Finishes the save under way and ends the background threads."""
        self.wait()
        self._manager.close()

    def _attempt(self, step: int, action: Callable[[], Any]) -> None:
        try:
            processes.run_on_all(action)
        except Exception as error:  # orbax and tensorstore raise many types for a failed write
            self._remove_unfinished()  # it holds on to the room that the next save, and the log, need
            self._manager.reload()  # it counts the failed one, and would drop good ones for it
            self.log(
                f"warning: checkpoint {step} could not be saved in {self.folder} ({_first_line(error)}); the run "
                f"goes on, earlier checkpoints are kept: {self.steps() or 'none'}"
            )

    def _remove_unfinished(self) -> None:
        if not processes.is_main_process():
            return
        for unfinished in self.folder.glob("*.orbax-checkpoint-tmp*"):
            shutil.rmtree(unfinished, ignore_errors=True)

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, ascending."""
        found = ocp.utils.checkpoint_steps(self.folder) if self.folder.exists() else []
        return processes.broadcast(sorted(map(int, found)))

    def restore(self, abstract: Callable[[dict], Any]) -> tuple[int, Any, dict] | None:
        """The newest undamaged checkpoint as (step, tree, meta), or None where there is none.

        Newer damaged ones are moved out of the way, into the folder's name + ".damaged".

        Args:
          abstract: gives the tree of `jax.ShapeDtypeStruct`s, each with a sharding, to restore into, from `meta`;
            raises `UserError` where that checkpoint does not fit this run.

        Raises:
          UserError: checkpoints exist, but each is damaged; they stay where they are.
        """
        damaged: list[int] = []
        for step in reversed(self.steps()):
            try:
                tree, meta = self._read(step, abstract)
            except (UserError, MemoryError):
                raise
            except Exception as error:  # damage shows as whatever the reader stumbles over
                if "RESOURCE_EXHAUSTED" in str(error):  # too little memory is no damage
                    raise
                damaged.append(step)
                reason = _first_line(error)[:200]
                self.log(
                    f"warning: checkpoint {self.folder / str(step)} is damaged ({reason}); trying the one before"
                )
                continue
            if damaged and not self._read_only:
                processes.run_on_all(
                    lambda: self._put_aside(damaged) if processes.is_main_process() else None
                )
                self._manager.reload()
            return step, tree, meta
        if damaged:
            raise UserError(
                f"{self.folder}: every checkpoint is damaged ({', '.join(map(str, reversed(damaged)))}); "
                + ("run its training anew" if self._read_only else "remove the folder to start the run anew")
            )
        return None

    def _put_aside(self, damaged: list[int]) -> None:
        aside = self.folder.with_name(self.folder.name + ".damaged")
        aside.mkdir(exist_ok=True)
        for bad in damaged:
            shutil.rmtree(aside / str(bad), ignore_errors=True)
            (self.folder / str(bad)).rename(aside / str(bad))

    def _read(self, step: int, abstract: Callable[[dict], Any]) -> tuple[Any, dict]:
        """Tree and meta of checkpoint `step`; raises an exception of any type where it is damaged."""
        restore = self._manager.restore
        told = processes.run_on_all(
            lambda: restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore())).meta
        )
        meta, digests = told["meta"], told["digests"]
        if told["checksum"] != _checksum(meta, digests):
            raise ValueError("wrong checksum of its meta data")
        wanted = abstract(meta)
        how = ocp.checkpoint_utils.construct_restore_args(wanted)
        args = ocp.args.Composite(state=ocp.args.PyTreeRestore(wanted, restore_args=how))
        tree = processes.run_on_all(lambda: restore(step, args=args).state)
        found = tree_digest(tree)
        if found != digests:
            names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
            bad = [name for name, a, b in zip(names, found, digests, strict=True) if a != b]
            raise ValueError(f"wrong digest of {bad[0]}")
        return tree, meta


def _checksum(meta: dict, digests: list[int]) -> str:
    return hashlib.sha256(json.dumps([meta, digests], sort_keys=True).encode()).hexdigest()


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
