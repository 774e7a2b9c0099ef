"""Prints the lines of a run and reports its numbers: metrics.jsonl, TensorBoard, W&B, a progress bar."""

import json
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from jaxft.errors import UserError
from jaxft.io import write_atomically


class RunLog:
    """Prints a run's lines and writes its numbers. Shows a progress bar on a terminal.

    `start` opens the writers. With a full disk, lines are lost but the run continues.

    Args:
      workdir: the run's folder.
      tensorboard: whether to write TensorBoard events.
      wandb: whether to log to Weights & Biases.
      config: the run's settings, for W&B.
      quiet: whether to print and write nothing, because another process does.

    Attributes:
      console: prints the reports of evaluations.

    Raises:
      UserError: `wandb` is True, but wandb is not installed.
    """

    def __init__(self, workdir: Path, *, tensorboard: bool, wandb: bool, config: dict, quiet: bool = False):
        self.workdir, self._quiet = workdir, quiet
        self._uses_tensorboard, self._config = tensorboard, config
        self._wandb_module = _import_wandb() if wandb and not quiet else None
        self._tensorboard = self._wandb = self._progress = self._task = None
        self.console = Console(soft_wrap=True, highlight=False, quiet=quiet)

    def log(self, line: str) -> None:
        """Prints one line, above the progress bar if there is one."""
        if self._quiet:
            return
        if self._progress:
            self._progress.console.print(line, markup=False, soft_wrap=True, highlight=False)
        else:
            print(line, flush=True)

    def start(self, step: int, total: int) -> None:
        """Opens the writers and the progress bar at `step` of `total`.

        If a run resumes from `step`, later lines of `metrics.jsonl` are dropped, because they will be written again.
        """
        if self._quiet:
            return
        path = self.workdir / "metrics.jsonl"
        if path.exists():
            kept = [line for line in path.read_text(encoding="utf-8").splitlines() if _step_of(line) <= step]
            write_atomically(path, "".join(line + "\n" for line in kept))
        if self._uses_tensorboard:
            from tensorboardX import SummaryWriter  # slow to import

            # Its thread dies if the disk is full. A full queue would then wait for ever.
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
        """Moves the progress bar to `step`."""
        if self._progress:
            self._progress.update(self._task, completed=step)

    def write(self, step: int, kind: str, values: dict[str, float]) -> None:
        """Appends the `values` of `step` to the files; `kind` is "train" or the name of a split."""
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
        """Closes the progress bar and the writers."""
        if self._progress:
            self._progress.stop()
            self._progress = None
        if self._tensorboard:
            self._tensorboard.close()
        if self._wandb:
            self._wandb.finish()


def _import_wandb():
    """Imports wandb; raises `UserError` if it is not installed."""
    try:
        import wandb  # optional
    except ModuleNotFoundError:
        raise UserError(
            "config.log.wandb=True, but wandb is not installed: pip install wandb, or leave the setting out"
        ) from None
    return wandb


def _step_of(line: str) -> float:
    """Returns the step of a line of metrics.jsonl; infinity for an incomplete line of a killed run."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError):
        return float("inf")


def _run_id(workdir: Path) -> str:
    """Returns the W&B id of the run, which is the same when it resumes."""
    return workdir.resolve().name.replace("/", "-")
