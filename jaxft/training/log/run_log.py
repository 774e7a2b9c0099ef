"""Prints the lines of a run and reports its numbers: metrics.jsonl, TensorBoard, W&B, a progress bar."""

import importlib.util
import json
import os
import secrets
from pathlib import Path
from types import ModuleType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from jaxft.config.sections import Settings
from jaxft.config.settings import flatten, to_dict
from jaxft.errors import UserError, printable
from jaxft.io.files import write_atomically
from jaxft.io.stores import with_addresses
from jaxft.training.log.callbacks import Callbacks
from jaxft.training.log.tags import tag_of

# Settings that TensorBoard does not list among the hyperparameters: they do not change the result.
NO_HYPERPARAMETERS = ("log.", "checkpoint.", "mesh.", "data.cache_dir")


class RunLog:
    """Prints a run's lines and writes its numbers. Shows a progress bar on a terminal.

    `start` opens the writers. With a full disk, lines are lost but the run continues.

    Args:
      workdir: the run's folder.
      config: the run's settings. `config.log` says which writers there are.
      callbacks: hear the numbers too.
      quiet: whether to print and write nothing, because another process does.

    Attributes:
      console: prints the reports of evaluations.

    Raises:
      UserError: `config.log.wandb` is True, but wandb is not installed.
    """

    def __init__(
        self, workdir: Path, config: Settings, callbacks: Callbacks | None = None, *, quiet: bool = False
    ):
        self.workdir, self._config, self._quiet = workdir, config, quiet
        self._callbacks = callbacks or Callbacks(())
        self._wandb_module = _import_wandb() if config.log.wandb and not quiet else None
        self._tensorboard = self._wandb = None
        self._progress: Progress | None = None
        self._task = TaskID(0)  # of the progress bar
        self.console = Console(soft_wrap=True, highlight=False, quiet=quiet)

    def log(self, line: str) -> None:
        """Prints one line, above the progress bar if there is one."""
        if self._quiet:
            return
        line = printable(with_addresses(line))
        if self._progress:
            self._progress.console.print(line, markup=False, soft_wrap=True, highlight=False)
        else:
            print(line, flush=True)

    def start(self, step: int, total: int, selection_metric: str) -> None:
        """Opens the writers and the progress bar.

        If a run resumes, later lines of `metrics.jsonl` are dropped, because they will be written again.

        Args:
          step: the step from which the run starts or resumes.
          total: the steps of the run.
          selection_metric: the metric of dev by which TensorBoard compares the hyperparameters of runs.
        """
        if self._quiet:
            return
        path = self.workdir / "metrics.jsonl"
        if path.exists():
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            kept = [line for line in lines if _step_of(line) <= step]
            write_atomically(path, "".join(line + "\n" for line in kept))
        if self._config.log.tensorboard:
            from tensorboardX import SummaryWriter, summary  # slow to import

            # Its thread dies if the disk is full. A full queue would then wait for ever.
            self._tensorboard = writer = SummaryWriter(
                str(self.workdir / "tensorboard"), purge_step=step + 1, max_queue=10_000, flush_secs=3600
            )
            # In the file of the curves, so that the run is listed once, with the newest value of the metric.
            metrics = {tag_of("dev", selection_metric): 0.0, tag_of("dev", "loss"): 0.0}
            for record in summary.hparams(_hyperparameters(self._config), metrics):
                writer.file_writer.add_summary(record)
        if self._wandb_module:
            self._wandb = self._wandb_module.init(**_wandb_options(self.workdir, self._config))
        if self.console.is_terminal or _shows_widgets(self.console):
            columns = [
                TextColumn("{task.description}"),
                BarColumn(20),  # narrow, so that 80 columns hold the texts too
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[loss]}"),
                TextColumn("{task.fields[dev]}"),
            ]
            progress = Progress(*columns, console=self.console, transient=True)
            self._task = progress.add_task("train", total=total, completed=step, loss="", dev="")
            progress.start()
            self._progress = progress

    def advance(self, step: int) -> None:
        """Moves the progress bar to `step`."""
        if self._progress:
            self._progress.update(self._task, completed=step)

    def show(self, **texts: str) -> None:
        """Shows texts at the end of the progress bar: `loss` and `dev`, the newest values."""
        if self._progress:
            fields: dict[str, Any] = {**texts}
            self._progress.update(self._task, **fields)

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
                    self._tensorboard.add_scalar(tag_of(kind, name), value, step)
                self._tensorboard.flush()
            except OSError as error:
                self.log(f"warning: TensorBoard events end before step {step}, the run goes on: {error}")
                self._tensorboard = None
        if self._wandb:
            self._wandb.log({tag_of(kind, name): value for name, value in values.items()}, step=step)
        self._callbacks.hear(step, kind, values)

    def close(self) -> None:
        """Closes the progress bar and the writers."""
        if self._progress:
            self._progress.stop()
            self._progress = None
        if self._tensorboard:
            self._tensorboard.close()
        if self._wandb:
            self._wandb.finish()


def _shows_widgets(console: Console) -> bool:
    """Returns whether the console is a notebook that can show a progress bar."""
    return console.is_jupyter and importlib.util.find_spec("ipywidgets") is not None


def _import_wandb() -> ModuleType:
    """Imports wandb; raises `UserError` if it is not installed."""
    try:
        import wandb  # optional
    except ModuleNotFoundError:
        raise UserError(
            "config.log.wandb=True, but wandb is not installed: pip install -e '.[wandb]', or leave the setting out"
        ) from None
    return wandb


def _step_of(line: str) -> float:
    """Returns the step of a line of metrics.jsonl; infinity for a damaged line, as a kill may leave."""
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        values = None
    step = values.get("step") if isinstance(values, dict) else None
    return step if isinstance(step, int) else float("inf")


def _hyperparameters(config: Settings) -> dict[str, Any]:
    """Returns the settings that may change the result, by key; tuples as text."""
    return {
        key: str(value) if isinstance(value, tuple) else value
        for key, value in flatten(config).items()
        if not key.startswith(NO_HYPERPARAMETERS) and value not in (None, ())
    }


def _wandb_options(workdir: Path, config: Settings) -> dict[str, Any]:
    """Returns the arguments of `wandb.init`. W&B's environment variables name what the settings leave unset."""
    log = config.log
    folders = Path(with_addresses(str(workdir.resolve()))).parts[-2:]
    default_name = None if os.environ.get("WANDB_NAME") else "/".join(folders)
    options = {
        "project": log.wandb_project,
        "group": log.wandb_group,
        "name": log.wandb_name or default_name,
        "tags": list(log.wandb_tags) or None,
    }
    return {
        "dir": str(workdir),
        "config": to_dict(config),
        "id": _wandb_id(workdir),
        "resume": "allow",
        **{name: value for name, value in options.items() if value is not None},
    }


def _wandb_id(workdir: Path) -> str:
    """Returns the W&B id of the run: drawn when the run first starts, and kept in its folder for when it resumes."""
    path = workdir / "wandb_id"
    if not path.exists():
        write_atomically(path, secrets.token_hex(8))
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}; remove it for a new id in W&B") from None
