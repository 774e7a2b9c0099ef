"""Opens the best weights of a run and applies its network to windows of text, for evaluate, predict and export."""

import collections
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxft.config.sections import Settings
from jaxft.config.settings import replace
from jaxft.data.batching.batch import Batch, Batches, Shape
from jaxft.data.batching.choice import make_loader
from jaxft.data.encoding.encoded import Encoded
from jaxft.parallel.mesh import AXES, local_rows
from jaxft.tasks.base import AnyEvaluator, Task
from jaxft.tasks.registry import make_evaluator
from jaxft.training.batch_rows import choose_eval_rows
from jaxft.training.evaluation import predict_batches
from jaxft.training.network import Network
from jaxft.training.prepare import prepare_network, prepare_task
from jaxft.training.run_folder.best import load_best
from jaxft.training.run_folder.frozen_base import FrozenBase, load_base, open_base_model
from jaxft.training.run_folder.workdir import Run
from jaxft.training.trainer import compile_eval

Log = Callable[[str], None]
Predictor = Callable[[Encoded], Iterator[tuple[Batch, dict[str, np.ndarray]]]]
SHORT_ROW = 128  # slots of the row for a single short text; that for a longer one is 4, 16, ... times as long


@dataclasses.dataclass(frozen=True)
class Model:
    """The best weights of a run on this machine's devices.

    Attributes:
      run: the run.
      task: the run's task.
      evaluator: makes predictions of outputs, with the run's tuned values.
      net: the run's network.
      parameters: the parameters by path.
      rows: number of rows in a batch; see `choose_eval_rows`.
    """

    run: Run
    task: Task
    evaluator: AnyEvaluator
    net: Network
    parameters: dict[str, jax.Array]
    rows: int

    @property
    def row_length(self) -> int:
        """The most slots of a row."""
        return self.task.batch_spec.row_length or self.run.config.data.max_length

    def loader(
        self,
        windows: Encoded,
        *,
        pack: bool,
        rows: int | None = None,
        length: int | None = None,
        block_length: int | None = None,
    ) -> Batches:
        """Returns the batches of `windows` in a fixed order.

        Packed batches all have one shape. With `block_length` 0, this shape is the same for any windows.

        Args:
          windows: the encoded text.
          pack: True if windows share rows.
          rows: number of rows in a batch; by default the model's.
          length: number of slots in a packed row; by default the most.
          block_length: see `plan_rows`.
        """
        rows = rows or self.rows
        return make_loader(
            windows,
            chunk=len(windows),  # all windows are planned at once
            rows=rows,
            only=local_rows(self.net.mesh, rows),
            max_length=length or self.row_length,
            pack=pack,
            shuffle=False,
            **self.task.batch_spec.loader_options(),
            block_length=block_length,
        )

    def compile(self, shapes: Sequence[Shape]) -> Mapping[Shape, Any]:
        """Returns a compiled evaluation step for each batch shape."""
        return compile_eval(self.net, set(shapes), is_deterministic=self.run.config.train.deterministic)

    def make_predictor(self) -> Predictor:
        """Returns a function that yields (batch, outputs) for windows.

        The shape of the batches is the smallest of `list_batch_shapes` that holds all windows in one batch, or else the
        largest. A shape is compiled when it is needed first. But if the program of a larger shape is there, that one
        computes until the smaller shape is needed a second time, so the end of a large file compiles nothing.
        """
        shapes = list_batch_shapes(self.rows, self.row_length, self.net.mesh.size)
        programs: dict[Shape, Any] = {}
        needs: collections.Counter[Shape] = collections.Counter()

        def pack(windows: Encoded, shape: Shape) -> Batches:
            return self.loader(windows, pack=True, rows=shape.rows, length=shape.length, block_length=0)

        def hold(windows: Encoded, shape: Shape) -> bool:
            if windows.lengths.sum() > shape.slots or windows.lengths.max(initial=0) > shape.length:
                return False
            return pack(windows, shape).steps_per_epoch <= 1

        def choose(windows: Encoded) -> Shape:
            fitting = [shape for shape in shapes[:-1] if hold(windows, shape)] + shapes[-1:]
            needs[fitting[0]] += 1
            if fitting[0] not in programs and needs[fitting[0]] == 1:
                return next((shape for shape in fitting if shape in programs), fitting[0])
            return fitting[0]

        def predict(windows: Encoded) -> Iterator[tuple[Batch, dict[str, np.ndarray]]]:
            shape = choose(windows)
            if shape not in programs:
                programs.update(self.compile([shape]))
            batches = predict_batches(self.net, programs, self.parameters, pack(windows, shape))
            return ((batch, arrays) for batch, arrays, _ in batches)

        return predict


def list_batch_shapes(rows: int, length: int, devices: int) -> list[Shape]:
    """Returns the shapes of batches for predictions, by ascending number of slots.

    One short text takes a row of `SHORT_ROW` slots, and a longer one a row of four times as many, until rows have full
    length; more text takes 4 or `rows` rows of full length. Devices divide the rows.

    Args:
      rows: the most rows of a batch.
      length: the most slots of a row.
      devices: number of devices that rows are sharded over.
    """
    lengths = [SHORT_ROW]
    while lengths[-1] < length:
        lengths.append(4 * lengths[-1])
    sizes = [*((1, min(slots, length)) for slots in lengths), (4, length), (rows, length)]
    rounded = {(math.ceil(count / devices) * devices, slots) for count, slots in sizes if count <= rows}
    return sorted((Shape(*size) for size in rounded), key=lambda shape: shape.slots)


def open_model(run: Run, log: Log, *, dtype: str | None = None) -> Model:
    """Opens the best weights of `run`; see `make_model`.

    Args:
      run: the run.
      log: prints a line.
      dtype: the dtype of the computation and of the base of adapters; by default those of the run.

    Raises:
      UserError: the run has no weights, or its weights are incomplete; or the base of its adapters is not there.
    """

    def load(net: Network, config: Settings) -> dict[str, jax.Array]:
        base = FrozenBase({}, None)
        if config.adapter.is_used:
            base = load_base(net, config, open_base_model(config, log), log)
        _, parameters = load_best(run.workdir, net.kept, run.labels, log, base.digest)
        return parameters | base.parameters

    return make_model(run, load, dtype=dtype)


def make_model(
    run: Run, load: Callable[[Network, Settings], dict[str, jax.Array]], *, dtype: str | None = None
) -> Model:
    """Makes the model of a run. The rows of a batch are sharded over all devices of this machine.

    The run's settings of mesh and attention are ignored, because they may belong to another machine. Each device holds
    all parameters, and "auto" chooses the attention.

    Args:
      run: the run.
      load: returns the parameters by path for the network and its settings.
      dtype: the dtype of the computation and of the base of adapters; by default those of the run.
    """
    task = prepare_task(run.config, run.checkpoint.hf_config, run.labels)
    evaluator = make_evaluator(run.labels, run.config, run.tuned)
    changes = {"model.attention": "auto"} | ({} if dtype is None else {"adapter.base_dtype": dtype})
    config = replace(run.config, changes)
    devices = jax.devices()
    mesh = Mesh(np.asarray(devices).reshape(-1, 1, 1), AXES)
    net = prepare_network(task, config, run.checkpoint.hf_config, mesh, dtype=dtype)
    rows = choose_eval_rows(config, task.batch_spec, len(devices))
    return Model(run, task, evaluator, net, load(net, config), rows)
