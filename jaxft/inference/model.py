"""Opens the best weights of a run and applies its network to windows of text, for evaluate, predict and export."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
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
from jaxft.training.evaluation import predict_batches
from jaxft.training.network import Network, make_network
from jaxft.training.run_folder.best import load_best
from jaxft.training.run_folder.workdir import Run
from jaxft.training.setup import compile_eval

Log = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Model:
    """The best weights of a run on this machine's devices.

    Attributes:
      run: the run.
      task: the run's task, with its labels and its tuned values.
      net: the run's network.
      parameters: the parameters by path.
      rows: number of rows in a batch: `config.eval.rows`, rounded up to a multiple of the number of devices.
    """

    run: Run
    task: Task
    net: Network
    parameters: dict[str, jax.Array]
    rows: int

    def loader(
        self, windows: Windows, *, pack: bool, rows: int | None = None, block_length: int | None = None
    ) -> Batches:
        """Returns the batches of `windows` in a fixed order.

        Packed batches all have one shape. With `block_length` 0, this shape is the same for any windows.

        Args:
          windows: the encoded text.
          pack: True if windows share rows.
          rows: number of rows in a batch; by default the model's.
          block_length: see `plan_rows`.
        """
        rows = rows or self.rows
        return make_loader(
            windows,
            chunk=len(windows),  # all windows are planned at once
            rows=rows,
            only=local_rows(self.net.mesh, rows),
            max_length=self.run.config.data.max_length,
            pack=pack,
            shuffle=False,
            pad_id=self.run.checkpoint.tokenizer.pad_token_id,
            arrays=self.task.arrays,
            max_segments=self.task.max_segments,
            block_length=block_length,
        )

    def compile(self, shapes: Sequence[Shape]) -> Mapping[Shape, Any]:
        """Returns a compiled evaluation step for each batch shape."""
        return compile_eval(self.net, set(shapes))

    def make_predictor(self) -> Callable[[Windows], Iterator[tuple[Batch, dict[str, np.ndarray]]]]:
        """Returns a function that yields (batch, outputs) for windows. Its only batch shape is compiled at once."""
        steps = self.compile([Shape(self.rows, self.run.config.data.max_length)])

        def predict(windows: Windows) -> Iterator[tuple[Batch, dict[str, np.ndarray]]]:
            loader = self.loader(windows, pack=True, block_length=0)
            for batch, arrays, _ in predict_batches(self.net, steps, self.parameters, loader):
                yield batch, arrays

        return predict


def make_run_task(run: Run) -> Task:
    """Returns the task of `run`, with its labels and its tuned values."""
    rate = resolve_head_dropout(run.config, run.checkpoint.hf_config)
    task = task_class(run.config)(run.labels, head_dropout=rate, config=run.config)
    task.tuned = run.tuned
    return task


def open_model(run: Run, log: Log, *, dtype: str | None = None) -> Model:
    """Opens the best weights of `run`. The rows of a batch are sharded over all devices of this machine.

    The run's settings of mesh and attention are ignored, because they may belong to another machine. Each device holds
    all parameters, and "auto" chooses the attention.

    Args:
      run: the run.
      log: prints a line.
      dtype: the dtype of the computation; by default the run's.

    Raises:
      UserError: the run has no weights, or its weights are incomplete.
    """
    config, task = replace(run.config, {"model.attention": "auto"}), make_run_task(run)
    devices = jax.devices()
    mesh = Mesh(np.asarray(devices).reshape(-1, 1, 1), AXES)
    sizes = resolve_sizes(config, run.checkpoint.hf_config)
    if dtype is not None:
        sizes["dtype"] = jnp.dtype(dtype)
    net = make_network(task, sizes, mesh)
    parameters = load_best(run.workdir, net.abstract, run.labels, log)
    rows = math.ceil(config.eval.rows / len(devices)) * len(devices)
    return Model(run, task, net, parameters, rows)
