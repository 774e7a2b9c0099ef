"""What a run tells: log lines, progress, metrics.jsonl, TensorBoard, W&B, and where its time went."""

import contextlib
import json
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from jaxft.errors import UserError
from jaxft.io import write_atomically


class CompileCounter:
    """Counts XLA compilations of this process, and their seconds, from its creation on.

    A program found in the compilation cache counts too: it stalls the run as well, only for less.
    """

    def __init__(self) -> None:
        self.count, self.seconds = 0, 0.0
        jax.monitoring.register_event_duration_secs_listener(self._listen)

    @contextlib.contextmanager
    def ignored(self) -> Iterator[None]:
        """Doesn't count what the block compiles: in a save orbax cuts arrays that several devices hold, once."""
        before = self.count, self.seconds
        yield
        self.count, self.seconds = before

    def _listen(self, event: str, seconds: float, **_: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            self.count += 1
            self.seconds += seconds


class RunLog:
    """Prints lines and writes a run's numbers; on a terminal with a progress bar, else plain lines.

    Files are opened on first use; lines of `metrics.jsonl` past `step` are dropped when a run goes on from
    there, since they will be written again. A disk that is full costs lines, not the run. `quiet`: says and
    writes nothing, for another process does. Raises `UserError` where `wandb` is asked for and not installed.
    """

    def __init__(self, workdir: Path, *, tensorboard: bool, wandb: bool, config: dict, quiet: bool = False):
        self.workdir, self._quiet = workdir, quiet
        self._tensorboard_wanted, self._config = tensorboard, config
        self._wandb_module = _import_wandb() if wandb and not quiet else None
        self._tensorboard = self._wandb = self._progress = self._task = None
        self.console = Console(soft_wrap=True, highlight=False, quiet=quiet)

    def log(self, line: str) -> None:
        """One line of the log."""
        if self._quiet:
            return
        if self._progress:
            self._progress.console.print(line, markup=False, soft_wrap=True, highlight=False)
        else:
            print(line, flush=True)

    def start(self, step: int, total: int) -> None:
        """Begins the run's numbers at `step` of `total`."""
        if self._quiet:
            return
        path = self.workdir / "metrics.jsonl"
        if path.exists():
            kept = [line for line in path.read_text(encoding="utf-8").splitlines() if _step_of(line) <= step]
            write_atomically(path, "".join(line + "\n" for line in kept))
        if self._tensorboard_wanted:
            from tensorboardX import SummaryWriter  # slow to import

            # Its thread dies where the disk is full, and then a queue that is full would wait for ever.
            self._tensorboard = SummaryWriter(
                str(self.workdir / "tensorboard"), purge_step=step + 1, max_queue=10_000, flush_secs=3600
            )
        if self._wandb_module:
            self._wandb = self._wandb_module.init(
                dir=str(self.workdir), config=self._config, id=_run_id(self.workdir), resume="allow"
            )
        if self.console.is_terminal:
            columns = [
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
            ]
            self._progress = Progress(*columns, console=self.console, transient=True)
            self._task = self._progress.add_task("train", total=total, completed=step)
            self._progress.start()

    def advance(self, step: int) -> None:
        """Moves the progress bar."""
        if self._progress:
            self._progress.update(self._task, completed=step)

    def write(self, step: int, kind: str, values: dict[str, float]) -> None:
        """Appends `values` ("train" or a split's) of `step` to the files."""
        if self._quiet:
            return
        try:
            with open(self.workdir / "metrics.jsonl", "a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, "kind": kind, **values}) + "\n")
        except OSError as error:
            self.log(f"warning: step {step} is missing from metrics.jsonl, the run goes on: {error}")
        if self._tensorboard:
            try:
                for name, value in values.items():
                    self._tensorboard.add_scalar(f"{kind}/{name}", value, step)
                self._tensorboard.flush()
            except OSError as error:
                self.log(f"warning: TensorBoard events end before step {step}, the run goes on: {error}")
                self._tensorboard = None
        if self._wandb:
            self._wandb.log({f"{kind}/{name}": value for name, value in values.items()}, step=step)

    def close(self) -> None:
        """Ends progress bar and writers."""
        if self._progress:
            self._progress.stop()
            self._progress = None
        if self._tensorboard:
            self._tensorboard.close()
        if self._wandb:
            self._wandb.finish()


class Profile:
    """A trace of some steps of a run, for TensorBoard's profile plugin, XProf and Perfetto."""

    def __init__(self, folder: Path, steps: range):
        self._folder, self._steps, self._running = folder, steps, False

    def due(self, step: int) -> bool:
        """Whether the trace begins or ends before `step`."""
        return bool(self._steps) and step == (self._steps.stop if self._running else self._steps.start)

    def toggle(self) -> str:
        """Begins or ends the trace; what is to be said of it."""
        self._running = not self._running
        if self._running:
            jax.profiler.start_trace(str(self._folder), create_perfetto_trace=True)
            return f"profile: steps {self._steps.start} to {self._steps.stop - 1} into {self._folder}"
        jax.profiler.stop_trace()
        return f"profile: open {self._folder} in XProf, or its perfetto_trace.json.gz at ui.perfetto.dev"


def _import_wandb():
    try:
        import wandb  # optional
    except ModuleNotFoundError:
        raise UserError(
            "config.log.wandb=True, but wandb is not installed: pip install wandb, or leave the setting out"
        ) from None
    return wandb


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError):  # the line that a killed run left half-written
        return float("inf")


def _run_id(workdir: Path) -> str:
    return workdir.resolve().name.replace("/", "-")


def train_line(step: int, total: int, values: dict[str, float]) -> str:
    """The log line of one training interval."""
    parts = [
        f"step {step}/{total}",
        f"loss {values['loss']:.4f}",
        f"grad norm {values['grad_norm']:.2f}",
        f"lr {values['lr']:.2e}",
        f"{values['real_tokens_per_s']:,.0f} tokens/s",
        f"padding {values['padding_fraction']:.1%}",
        f"input stall {values['input_stall_fraction']:.1%}",
    ]
    if "mfu" in values:
        parts.append(f"MFU {values['mfu']:.1%}")
    return "  ".join(parts)


class Clock:
    """Seconds of training: wall time since `start` less what was spent in `pause`d parts (evaluation, saving)."""

    def __init__(self) -> None:
        self._started, self._paused, self._pause_began = time.perf_counter(), 0.0, None

    def __enter__(self) -> None:
        self._pause_began = time.perf_counter()

    def __exit__(self, *_: Any) -> None:
        self._paused += time.perf_counter() - self._pause_began

    def seconds(self) -> float:
        """Training seconds so far."""
        return time.perf_counter() - self._started - self._paused


def peak_rss_bytes() -> int:
    """The process's largest resident memory so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
