"""Reads the metrics of training steps and logs them, averaged, at intervals."""

import collections
import math
from collections.abc import Mapping
from typing import Any

import jax

from jaxft.data.batching.batch import Batch
from jaxft.data.batching.prefetch import Prefetch
from jaxft.errors import NonFiniteLoss
from jaxft.training.log.instruments import Clock
from jaxft.training.log.run_log import RunLog
from jaxft.training.run_folder.checkpoint import RunCheckpoints
from jaxft.training.run_folder.workdir import save_batch


class TrainLog:
    """The metrics of a run's steps: queued metrics on the device, sums since the last log line, totals of the run.

    The device works ahead of the host, so the metrics of a step are read only after later steps are queued. Seconds of
    training count from the log's creation until `end`, without those in `paused`.

    Args:
      run_log: prints and writes the lines.
      batches: measures how long the loop has waited for batches.
      checkpoints: the run's checkpoints, for the error of a loss that is not finite.
      total: the steps of the run.
      every_steps: the steps between log lines.
      steps_per_epoch: the steps of an epoch.
      unit: what the task counts, such as "token".
      flops_per_unit: the model FLOPs per unit, forward and backward.
      peak_flops: the peak FLOP/s of all devices; None if unknown. Lines then have no MFU.
      progress: the result of `progress` in the checkpoint from which the run resumes; empty at the start.
    """

    def __init__(
        self,
        run_log: RunLog,
        batches: Prefetch,
        checkpoints: RunCheckpoints,
        *,
        total: int,
        every_steps: int,
        steps_per_epoch: int,
        unit: str,
        flops_per_unit: float,
        peak_flops: float | None,
        progress: Mapping[str, Mapping[str, float]],
    ):
        self._run_log, self._batches, self._checkpoints = run_log, batches, checkpoints
        self._clock = Clock()
        self._total, self._every_steps, self._steps_per_epoch = total, every_steps, steps_per_epoch
        self._unit, self._units = unit, f"{unit}s"
        self._flops_per_unit, self._peak_flops = flops_per_unit, peak_flops
        # (step, batch, metrics on the device)
        self._pending: collections.deque[tuple[int, Batch, Mapping[str, jax.Array]]] = collections.deque()
        self._sums = dict(progress.get("sums", {}))  # since the last log line
        self._timed: dict[str, float] = {}  # the same since this start only, for rates by its clock
        self._totals = dict(progress.get("totals", {}))  # over all starts of the run
        self._earlier_seconds = self._totals.get("seconds", 0)
        self._earlier_stall = self._totals.get("stall", 0)
        self._last_line_seconds, self._last_line_stall = 0.0, 0.0

    def add(self, step: int, batch: Batch, metrics: Mapping[str, jax.Array]) -> None:
        """Queues the metrics of `step`, which the device may not have computed yet."""
        self._pending.append((step, batch, metrics))

    def drain(self, keep: int) -> None:
        """Reads the metrics of all queued steps except the newest `keep`. Logs a line if it is due.

        Raises:
          NonFiniteLoss: the loss or the gradient norm of a step is NaN or infinite. Its batch is then in the run's
            folder.
        """
        while len(self._pending) > keep:
            step, batch, metrics = self._pending.popleft()
            values = {name: float(value) for name, value in jax.device_get(metrics).items()}
            if not math.isfinite(values["loss"]) or not math.isfinite(values["grad_norm"]):
                self._refuse(step, batch, values)
            weight = values["weight"]
            step_sums = {"steps": 1, "loss": values["loss"] * weight, "weight": weight}
            _add(self._sums, step_sums | {"grad_norm": values["grad_norm"]})
            self._run_log.show(loss=f"loss {self._mean_loss():.4f}")
            for sums in (self._sums, self._timed, self._totals):
                _add(sums, {self._units: int(values["units"]), "slots": batch.shape.slots})
            if step % self._every_steps == 0 or step == self._total:
                self._write_line(step, values["lr"])

    def paused(self) -> Clock:
        """Returns a context whose seconds do not count as training: those of evaluating and saving."""
        return self._clock

    def end(self) -> None:
        """Ends the training time."""
        self._clock.stop()

    def progress(self) -> dict[str, dict[str, float]]:
        """Returns the values to keep in a checkpoint of the run."""
        times = {"seconds": self.train_seconds(), "stall": self.stall_seconds()}
        return {"sums": dict(self._sums), "totals": {**self._totals, **times}}

    def train_seconds(self) -> float:
        """Returns the seconds of training, over all starts of the run."""
        return self._earlier_seconds + self._clock.seconds()

    def stall_seconds(self) -> float:
        """Returns the seconds for which the loop has waited for batches, over all starts of the run."""
        return self._earlier_stall + self._batches.stall

    def summary(self) -> dict[str, float]:
        """Returns the seconds, the speed, and the shares of padding and of waiting, over all starts of the run."""
        seconds = self.train_seconds()
        return {
            "train_s": seconds,
            f"real_{self._units}_per_s": self._totals[self._units] / seconds,
            "padding_fraction": 1 - self._totals[self._units] / self._totals["slots"],
            "input_stall_fraction": self.stall_seconds() / seconds,
        }

    def _refuse(self, step: int, batch: Batch, values: Mapping[str, float]) -> None:
        """Saves the batch of a step whose loss or gradient is not finite, and raises `NonFiniteLoss`."""
        path = save_batch(self._run_log.workdir, step, batch)
        self._checkpoints.wait()
        steps = self._checkpoints.steps()
        raise NonFiniteLoss(
            f"step {step}: loss {values['loss']}, gradient norm {values['grad_norm']}; the batch is in {path}, "
            f"the last good checkpoint is {steps[-1] if steps else 'the start'} in {self._checkpoints.folder}; lower "
            "config.optim.lr or raise config.optim.warmup"
        )

    def _mean_loss(self) -> float:
        """Returns the mean loss since the last line."""
        return self._sums["loss"] / max(self._sums["weight"], 1e-6)

    def _write_line(self, step: int, learning_rate: float) -> None:
        """Logs the means since the last line and begins the next interval."""
        now, stall = self._clock.seconds(), self._batches.stall
        seconds = max(now - self._last_line_seconds, 1e-9)
        line = {
            "loss": self._mean_loss(),
            "grad_norm": self._sums["grad_norm"] / self._sums["steps"],
            "lr": learning_rate,
            "epoch": step / self._steps_per_epoch,
            f"real_{self._units}_per_s": self._timed[self._units] / seconds,
            "padding_fraction": 1 - self._sums[self._units] / self._sums["slots"],
            "input_stall_fraction": (stall - self._last_line_stall) / seconds,
        }
        if self._peak_flops:
            line["mfu"] = self._flops_per_unit * self._timed[self._units] / seconds / self._peak_flops
        self._run_log.log(format_train_line(step, self._total, line, self._unit))
        self._run_log.write(step, "train", line)
        self._sums.clear()
        self._timed.clear()
        self._last_line_seconds, self._last_line_stall = now, stall


def _add(sums: dict[str, float], values: Mapping[str, float]) -> None:
    """Adds values to the sums of the same names, which begin at 0."""
    for name, value in values.items():
        sums[name] = sums.get(name, 0) + value


def format_train_line(step: int, total: int, values: Mapping[str, Any], unit: str = "token") -> str:
    """Returns the log line of one training interval, in which the task has counted its units."""
    fields = [
        f"step {step}/{total}",
        f"loss {values['loss']:.4f}",
        f"grad norm {values['grad_norm']:.2f}",
        f"lr {values['lr']:.2e}",
        f"{values[f'real_{unit}s_per_s']:,.0f} {unit}s/s",
        f"padding {values['padding_fraction']:.1%}",
        f"input stall {values['input_stall_fraction']:.1%}",
    ]
    if "mfu" in values:
        fields.append(f"MFU {values['mfu']:.1%}")
    return "  ".join(fields)
