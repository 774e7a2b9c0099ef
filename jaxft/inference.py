"""Runs a network over windows of text, opens a run's best weights to do so, and frames the verbs that use them.

Its own file because evaluate, predict and export share it, and workdir.py, which reads and writes a run's
folder, knows no compiled steps.
"""

import argparse
import collections
import contextlib
import dataclasses
import hashlib
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxft import startup
from jaxft.cli.several_processes import add_flags, as_process
from jaxft.data.batching.batch import Batch, Shape
from jaxft.data.batching.loader import Loader
from jaxft.data.encoding.windows import Windows
from jaxft.errors import EXIT_INTERRUPTED, UserError
from jaxft.models.pretrained_model import backbone_sizes, head_dropout
from jaxft.parallel import processes
from jaxft.parallel.mesh import AXES, local_rows, place_batch
from jaxft.tasks import TASKS, Task
from jaxft.training.finished_run import Run, load_best
from jaxft.training.identity import versions
from jaxft.training.setup import Network, compile_eval, make_network

EXIT_BROKEN_PIPE = 128 + signal.SIGPIPE

Say = Callable[[str], None]


QUEUED = 2  # batches on the device ahead of the one that the host reads


def outputs(
    net: Network, compiled: Mapping[Shape, Any], parameters: dict, loader: Loader
) -> Iterator[tuple[Batch, dict[str, np.ndarray], dict[str, float]]]:
    """Predictions of one epoch of `loader`: (batch, outputs on the host, loss sums), in its order.

    compiled: `eval_step`s by batch shape. The device works ahead of the consumer by a bounded number of
    batches, so memory does not grow with the data.
    """
    queue: collections.deque = collections.deque()
    for step in range(loader.steps_per_epoch):
        batch = loader.batch(step)
        arrays = place_batch(batch.arrays, net.mesh)
        queue.append((batch, *compiled[batch.shape](parameters, arrays)))
        if len(queue) > QUEUED:
            yield _fetch(*queue.popleft())
    while queue:
        yield _fetch(*queue.popleft())


def _fetch(batch, predictions, sums):
    predictions, sums = jax.device_get((predictions, sums))
    return batch, predictions, {name: float(value) for name, value in sums.items()}


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
    ) -> Loader:
        """Batches of `windows` in fixed order, of `rows` (default the run's).

        Packed ones are all of one shape, with `block` 0 of the same for all windows.
        """
        rows = rows or self.rows
        return Loader(
            windows,
            rows=rows,
            only=local_rows(self.net.mesh, rows),
            max_length=self.run.config.data.max_length,
            pack=pack,
            shuffle=False,
            pad_id=self.run.checkpoint.tokenizer.pad_token_id,
            arrays=self.task.arrays,
            segments=self.task.segments,
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
            for batch, arrays, _ in outputs(self.net, steps, self.parameters, loader):
                yield batch, arrays

        return predict


def task_of(run: Run) -> Task:
    """The task of `run`, with the labels that it was trained on and what it tuned."""
    rate = head_dropout(run.config, run.checkpoint.hf_config)
    task = TASKS[run.config.task](run.labels, head_dropout=rate, config=run.config)
    task.tuned = run.tuned
    return task


def open_model(run: Run, say: Say, *, dtype: str | None = None) -> Model:
    """The best weights of `run`, rows of batches going over all devices of this machine.

    The run's mesh and attention are left aside, for they may be another machine's: each device holds all
    parameters, and attention is what "auto" means here.
    dtype: of the computation, default the run's.

    Raises `UserError` where the run has no weights, or none that are whole.
    """
    config, task = run.config.copy_and_resolve_references(), task_of(run)
    config.model.attention = "auto"
    devices = jax.devices()
    mesh = Mesh(np.asarray(devices).reshape(-1, 1, 1), AXES)
    sizes = backbone_sizes(config, run.checkpoint.hf_config)
    net = make_network(task, sizes if dtype is None else sizes | {"dtype": jax.numpy.dtype(dtype)}, mesh)
    parameters = load_best(run.workdir, net.abstract, run.labels, say)
    return Model(run, task, net, parameters, -(-config.eval.rows // len(devices)) * len(devices))


@contextlib.contextmanager
def open_output(name: str) -> Iterator[Callable[[list[bytes]], None]]:
    """Gives a function that writes to stdout ("-") or a file, at once.

    A file gets its name when the body ends without an error, and so is whole or not there; what can't be
    renamed (a device, a named pipe) is written directly. Raises `UserError` where it cannot be written.
    """
    path = Path(name)
    if path.is_dir():
        raise UserError(f"--output {name}: is a folder; give a file's name, or - for stdout")
    if not processes.is_main_process():
        yield lambda pieces: None  # process 0 writes
        return
    direct = name == "-" or (path.exists() and not path.is_file())
    unfinished = path if direct else path.with_name(f".{path.name}.unfinished-{os.getpid()}")

    @contextlib.contextmanager
    def errors_named() -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            raise
        except OSError as error:
            raise UserError(f"--output {name}: cannot be written: {error.strerror or error}") from None

    def write(pieces: list[bytes]) -> None:
        with errors_named():
            file.write(b"".join(pieces))
            file.flush()

    with errors_named():
        file = sys.stdout.buffer if name == "-" else open(unfinished, "wb")
    try:
        yield write
        if name != "-":
            with errors_named():
                file.close()
                if not direct:
                    unfinished.replace(path)
    finally:
        if name != "-":
            with contextlib.suppress(OSError):  # of what could not be written, as was said
                file.close()
        if not direct:
            unfinished.unlink(missing_ok=True)


def _meant(flags: argparse.Namespace) -> dict[str, Any]:
    """What `flags` ask for, which no two processes may differ in: where files lie may differ, the input itself not."""
    own = ("process_id", "coordinator", "start_timeout", "peer_timeout")
    own += ("run", "checkpoint", "data", "input", "output")
    facts = {f"--{name.replace('_', '-')}": value for name, value in vars(flags).items() if name not in own}
    if (source := getattr(flags, "input", None)) and Path(source).is_file():
        with contextlib.suppress(OSError), open(source, "rb") as file:  # which is said where it is read
            facts["SHA-256 of --input"] = hashlib.file_digest(file, "sha256").hexdigest()
    return facts


@contextlib.contextmanager
def command(parser: argparse.ArgumentParser, argv: list[str] | None) -> Iterator[argparse.Namespace]:
    """The body of a verb: parsed flags in; user's errors, a reader that left and Ctrl-C as exit codes out."""
    add_flags(parser)
    flags, rest = parser.parse_known_args(argv)
    # As an exception, so that files that are half-written are taken away.
    with contextlib.suppress(ValueError):  # not in the main thread: whoever runs us handles signals
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        with as_process(flags):
            if rest:
                raise UserError(f"{rest[0]}: unknown flag; --help lists those there are")
            if processes.count() > 1:
                if "-" in (getattr(flags, "data", None), getattr(flags, "input", None)):
                    raise UserError("stdin is one process's; give all processes a file that they share")
                processes.assert_same(_meant(flags) | versions())
            startup.use_compilation_cache()
            yield flags
            sys.stdout.flush()
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing more is said on exit
        sys.exit(EXIT_BROKEN_PIPE)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
