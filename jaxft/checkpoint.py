"""Orbax checkpoints of a run: the last N train states, the best parameters, and how damage is found."""

import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from jaxft.errors import UserError

Say = Callable[[str], None]
logging.getLogger("absl").setLevel(logging.ERROR)  # orbax tells every phase of every save


@jax.jit
def digest(tree: Any) -> list[jax.Array]:
    """One uint32 a leaf of `tree`: a sum over its bits, weighted by position, modulo 2^32.

    Integer sums do not depend on order, so the digest is the same on any mesh; a changed bit changes it,
    since every position's weight is odd.
    """

    def leaf_digest(x: jax.Array) -> jax.Array:
        bits = jax.lax.bitcast_convert_type(x, jnp.dtype(f"uint{8 * x.dtype.itemsize}")).reshape(-1)
        index = jax.lax.iota(jnp.uint32, bits.size)
        return jnp.sum(bits.astype(jnp.uint32) * (index * jnp.uint32(0x9E3779B2) + jnp.uint32(1)))

    return [leaf_digest(leaf) for leaf in jax.tree.leaves(tree)]


class Checkpoints:
    """Checkpoints in one folder, a subfolder a step; saved in the background, each complete or not there.

    A checkpoint holds a tree of arrays and a dict of plain values (`meta`), among them the arrays' digests.
    A save that fails (a full disk) is said and skipped; earlier checkpoints stay.
    """

    def __init__(self, folder: Path, *, keep: int | None, say: Say):
        self.folder, self.say = folder.absolute(), say
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, create=True, enable_async_checkpointing=True, cleanup_tmp_directories=True
        )
        self._manager = ocp.CheckpointManager(self.folder, options=options)
        self._saving: int | None = None

    def save(self, step: int, tree: Any, meta: dict) -> None:
        """Starts to save `tree` as step `step`; `tree` may be donated or changed once this returns."""
        self.wait()
        if step in self.steps():  # of an earlier start that was killed after it
            self._manager.delete(step)
        digests = [int(value) for value in jax.device_get(digest(tree))]
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(tree), meta=ocp.args.JsonSave({**meta, "digests": digests})
        )
        self._attempt(step, functools.partial(self._manager.save, step, args=args, force=True))

    def wait(self) -> None:
        """Returns when the save under way is on disk or has failed (which is said)."""
        if self._saving is not None:
            self._attempt(self._saving, self._manager.wait_until_finished)
            self._saving = None

    def close(self) -> None:
        """Finishes the save under way and ends the background threads."""
        self.wait()
        self._manager.close()

    def _attempt(self, step: int, action: Callable[[], Any]) -> None:
        try:
            action()
            self._saving = step
        except Exception as error:  # orbax and tensorstore raise many types for a failed write
            self._saving = None
            reason = _first_line(error)
            self.say(
                f"warning: checkpoint {step} could not be saved in {self.folder} ({reason}); the run goes on, "
                f"earlier checkpoints are kept: {self.steps() or 'none'}"
            )

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, ascending."""
        return sorted(ocp.utils.checkpoint_steps(self.folder)) if self.folder.exists() else []

    def restore(self, abstract: Callable[[dict], Any]) -> tuple[int, Any, dict] | None:
        """The newest undamaged checkpoint as (step, tree, meta), or None where there is none.

        Args:
          abstract: gives the tree of `jax.ShapeDtypeStruct`s with shardings to restore into, from `meta`;
            raises `UserError` where that checkpoint does not fit this run.

        Raises:
          UserError: checkpoints exist, but each is damaged.
        """
        steps = self.steps()
        for step in reversed(steps):
            try:
                meta = self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore())).meta
                wanted = abstract(meta)
                args = ocp.args.Composite(state=ocp.args.StandardRestore(wanted))
                tree = self._manager.restore(step, args=args).state
                found = [int(value) for value in jax.device_get(digest(tree))]
                if found != meta["digests"]:
                    names = [
                        jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)
                    ]
                    bad = [n for n, a, b in zip(names, found, meta["digests"], strict=True) if a != b]
                    raise ValueError(f"wrong digest of {bad[0]}")
                return step, tree, meta
            except UserError:
                raise
            except Exception as error:  # damage shows as whatever the reader stumbles over
                reason = _first_line(error)
                self.say(
                    f"warning: checkpoint {self.folder / str(step)} is damaged ({reason[:200]}); trying the one before"
                )
                self._manager.delete(step)
        if steps:
            raise UserError(
                f"{self.folder}: every checkpoint is damaged ({', '.join(map(str, steps))}); "
                "remove the folder to start the run anew"
            )
        return None


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
