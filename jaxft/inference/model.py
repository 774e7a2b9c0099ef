"""Runs a network over windows of text, opens a run's best weights to do so, and frames the verbs that use them.

Its own file because evaluate, predict and export share it, and workdir.py, which reads and writes a run's
folder, knows no compiled steps.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxft.config.settings import replace
from jaxft.data.batching.batch import Batch, Batches, Shape
from jaxft.data.batching.choice import make_loader
from jaxft.data.encoding.windows import Windows
from jaxft.models.pretrained_model import resolve_head_dropout, resolve_sizes
from jaxft.parallel.mesh import AXES, local_rows
from jaxft.tasks.base import Task
from jaxft.tasks.registry import task_class
from jaxft.training.best import load_best
from jaxft.training.evaluation import predict_batches
from jaxft.training.network import Network, make_network
from jaxft.training.setup import compile_eval
from jaxft.training.workdir import Run

Log = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Model:
    """A run's best weights on this machine's devices."""

    run: Run
    task: Task
    net: Network
    parameters: dict[str, jax.Array]
    rows: int  # of a batch: `config.eval.rows`, or the next multiple of the number of devices

    def loader(
        self, windows: Windows, *, pack: bool, rows: int | None = None, block: int | None = None
    ) -> Batches:
        """Batches of `windows` in fixed order, of `rows` (default the run's).

        Packed ones are all of one shape, with `block` 0 of the same for all windows.
        """
        rows = rows or self.rows
        return make_loader(
            windows,
            chunk=len(windows),  # planned at once, however many there are
            rows=rows,
            only=local_rows(self.net.mesh, rows),
            max_length=self.run.config.data.max_length,
            pack=pack,
            shuffle=False,
            pad_id=self.run.checkpoint.tokenizer.pad_token_id,
            arrays=self.task.arrays,
            segments=self.task.max_segments,
            block=block,
        )

    def compile(self, shapes: Sequence[Shape]) -> Mapping[Shape, Any]:
        """Compiled evaluation steps by batch shape."""
        return compile_eval(self.net, set(shapes))

    def predictor(self) -> Callable[[Windows], Iterator[tuple[Batch, dict[str, np.ndarray]]]]:
        """A function from windows to (batch, outputs); compiles once, here, for the one shape it uses."""
        steps = self.compile([Shape(self.rows, self.run.config.data.max_length)])

        def predict(windows: Windows) -> Iterator[tuple[Batch, dict[str, np.ndarray]]]:
            loader = self.loader(windows, pack=True, block=0)
            for batch, arrays, _ in predict_batches(self.net, steps, self.parameters, loader):
                yield batch, arrays

        return predict


def task_of(run: Run) -> Task:
    """The task of `run`, with the labels that it was trained on and what it tuned."""
    rate = resolve_head_dropout(run.config, run.checkpoint.hf_config)
    task = task_class(run.config)(run.labels, head_dropout=rate, config=run.config)
    task.tuned = run.tuned
    return task


def open_model(run: Run, log: Log, *, dtype: str | None = None) -> Model:
    """The best weights of `run`, rows of batches going over all devices of this machine.

    The run's mesh and attention are left aside, for they may be another machine's: each device holds all
    parameters, and attention is what "auto" means here.
    dtype: of the computation, default the run's.

    Raises `UserError` where the run has no weights, or none that are whole.
    """
    config, task = replace(run.config, {"model.attention": "auto"}), task_of(run)
    devices = jax.devices()
    mesh = Mesh(np.asarray(devices).reshape(-1, 1, 1), AXES)
    sizes = resolve_sizes(config, run.checkpoint.hf_config)
    net = make_network(task, sizes if dtype is None else sizes | {"dtype": jax.numpy.dtype(dtype)}, mesh)
    parameters = load_best(run.workdir, net.abstract, run.labels, log)
    return Model(run, task, net, parameters, -(-config.eval.rows // len(devices)) * len(devices))
