"""Decides how many rows the optimizer steps of a run have, from the number of examples that a step should hold."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jax.sharding import Mesh

from jaxft.config.sections import Settings
from jaxft.config.settings import MAX_ROWS, replace
from jaxft.data.batching.batch import BatchSpec
from jaxft.data.batching.mixed import Mix
from jaxft.data.batching.step_rows import choose_step_rows, sample_windows, windows_per_row
from jaxft.data.encoding.encoded import Encoded
from jaxft.errors import UserError
from jaxft.layers.parameters import Kind
from jaxft.parallel import processes
from jaxft.parallel.mesh import check_rows
from jaxft.training.network import Network

FEW_STEPS, FEW_STEPS_AN_EPOCH = 100, 20  # with fewer, the learning rate hardly rises and falls
EVAL_ROWS, MOST_EVAL_SLOTS = 32, 2**15  # of a batch that is measured, if no setting says its rows
LARGE_STEP = 4096  # positions from which on a CPU computes a step in two microbatches
TOLERANCE = 0.25  # the share by which a step may miss the examples that were asked for, without a warning


class StepSize(NamedTuple):
    """The size of an optimizer step.

    Attributes:
      rows: number of rows.
      asked: the number of examples (windows) that it should hold.
      examples: the mean number of examples in the rows of a full step.
      unit: what divides the rows.
      example_count: the number of all examples.
      length: the number of slots in a row.
    """

    rows: int
    asked: int
    examples: float
    unit: int
    example_count: int
    length: int


def rows_unit(config: Settings, mesh: Mesh) -> int:
    """Returns the number of which the rows of a step are a multiple: microbatches times devices, and data shards.

    Raises:
      UserError: no step has so many rows.
    """
    ways, shards = mesh.shape["data"] * mesh.shape["fsdp"], config.data.shards
    unit = math.lcm(config.batch.accumulate * ways, shards)
    if unit > MAX_ROWS:
        raise UserError(
            f"config.batch.accumulate={config.batch.accumulate} x {ways} devices and config.data.shards={shards}: a "
            f"step would have {unit:,} rows, expected at most {MAX_ROWS:,}; make one of them smaller"
        )
    return unit


def check_batch(config: Settings, mesh: Mesh) -> None:
    """Raises `UserError` if the mesh does not divide `config.batch.rows` or `config.eval.rows`, where they are set."""
    if config.batch.rows is not None:
        check_rows(mesh, config.batch.rows // config.batch.accumulate, "config.batch.rows / accumulate")
    if config.eval.rows is not None:
        check_rows(mesh, config.eval.rows, "config.eval.rows")


def choose_eval_rows(config: Settings, spec: BatchSpec, ways: int) -> int:
    """Returns the rows of a batch that is measured or predicted.

    They are `config.eval.rows`. If unset, they are `EVAL_ROWS`, or those of a batch of `MOST_EVAL_SLOTS` if these are
    fewer.

    Args:
      config: the run's settings.
      spec: the arrays of a batch.
      ways: what divides the rows, which are rounded up.
    """
    length = spec.row_length or config.data.max_length
    rows = config.eval.rows or max(1, min(EVAL_ROWS, MOST_EVAL_SLOTS // length))
    return math.ceil(rows / ways) * ways


def rows_begun_with(
    config: Settings, mesh: Mesh, meta: Mapping[str, Any] | None, workdir: Path
) -> int | None:
    """Returns the rows of a step with which a run began, which it keeps when it resumes, also on another mesh.

    Args:
      config: the run's settings.
      mesh: the devices.
      meta: the plain values of the run's newest checkpoint, or None.
      workdir: the run's folder, for the message.

    Returns:
      The rows; None for a new run, or if `config.batch.rows` are set.

    Raises:
      UserError: the mesh does not divide the rows.
    """
    rows = None if meta is None else meta["identity"]["settings"].get("batch.rows")
    if rows is None or config.batch.rows is not None:
        return None
    if rows % (unit := rows_unit(config, mesh)):
        raise UserError(
            f"--workdir {workdir}: the run began with {rows} rows a step, which {unit} (devices of mesh data x fsdp, "
            "times config.batch.accumulate) does not divide; take a mesh that does, or a new folder"
        )
    return rows


def choose_step_size(
    config: Settings,
    mesh: Mesh,
    windows: Mapping[int, Encoded],
    spec: BatchSpec,
    begun_with: int | None = None,
) -> StepSize:
    """Returns the size of the run's steps: `config.batch.rows`, or the rows that hold `config.batch.examples`.

    All processes return the same.

    Args:
      config: the run's settings.
      mesh: the devices.
      windows: this process's shards of the training data, by number.
      spec: the arrays of a batch.
      begun_with: the rows of a run that resumes; see `rows_begun_with`.
    """
    data, unit, rows = config.data, rows_unit(config, mesh), config.batch.rows or begun_with
    length = spec.row_length or data.max_length
    count = sum(processes.gather_by_shard({number: len(shard) for number, shard in windows.items()}))
    asked = min(config.batch.examples or config.default_examples, count)
    if not data.pack:  # a row holds one window
        rows = rows or unit * max(1, int(asked / unit + 0.5))
        return StepSize(rows, asked, float(rows), unit, count, length)
    mix = Mix(**config.mix_options())
    samples = sample_windows(windows, data.shards, processes.gather_by_shard, mix)
    rows = rows or choose_step_rows(samples, asked, unit, length, spec.max_segments)
    examples = rows * windows_per_row(samples, rows, length, spec.max_segments)
    return StepSize(rows, asked, examples, unit, count, length)


def choose_microbatches(config: Settings, net: Network, rows: int, length: int) -> int:
    """Returns the number of microbatches of a step: `config.batch.accumulate`, or two for a large step on one CPU.

    Arrays then have half the size. Two cores of a Xeon made steps of MiniLM's sizes 1.13 times as fast with 4,096
    tokens and 1.22 times with 8,192; ViT-tiny with 32 images had 1.04 to 1.31 from run to run. With 2,048 tokens the
    gain was within the noise, and four microbatches gained no more than two (benchmarks/microbatches.py). A model with
    statistics of a batch stays whole, because its results would change.

    Args:
      config: the run's settings.
      net: the model.
      rows: the rows of a step.
      length: the number of slots in a row, the most of any.
    """
    asked, devices = config.batch.accumulate, net.mesh.devices
    is_one_cpu = devices.size == 1 and devices.flat[0].platform == "cpu"
    has_statistics = any(role.kind is Kind.STATISTIC for role in net.roles.values())
    if asked > 1 or not is_one_cpu or has_statistics or rows % 2:
        return asked
    return 2 if rows * net.model_config.count_positions(length) >= LARGE_STEP else 1


def with_rows(config: Settings, size: StepSize) -> Settings:
    """Returns the settings with the rows of `size` in place of the examples."""
    return replace(config, {"batch.rows": size.rows, "batch.examples": None})


def warn_of_other_size(config: Settings, size: StepSize) -> str | None:
    """Returns a warning if a step holds far fewer or more examples than `config` asks for, else None."""
    if config.batch.rows is not None or abs(size.examples - size.asked) <= TOLERANCE * size.asked:
        return None
    is_default = "" if config.batch.examples else " (the default)"
    remedy = (
        "lower config.data.max_length for rows of fewer examples"
        if size.unit == 1
        else f"{size.unit} (microbatches x devices, and data shards) must divide the rows: have fewer of them"
    )
    return (
        f"warning: config.batch.examples={size.asked}{is_default} was asked for, but {size.rows:,} rows, the nearest "
        f"number, hold {size.examples:,.1f} on average; {remedy}, or set config.batch.examples={size.examples:.0f}"
    )


def warn_of_few_steps(config: Settings, size: StepSize, *, total: int, steps_per_epoch: int) -> str | None:
    """Returns a warning that says what to set if a run or an epoch has few steps, else None.

    Args:
      config: the run's settings, as the user gave them.
      size: the size of a step.
      total: the steps of the run.
      steps_per_epoch: the steps of an epoch.
    """
    if total >= FEW_STEPS and steps_per_epoch >= FEW_STEPS_AN_EPOCH:
        return None
    smaller = max(1, size.example_count // FEW_STEPS_AN_EPOCH)
    remedies = []
    if steps_per_epoch < FEW_STEPS_AN_EPOCH and size.rows > size.unit and smaller < size.examples:
        remedies.append(f"config.batch.examples={smaller} for smaller steps")
    if total < FEW_STEPS:
        setting = (
            "steps" if config.train.steps is not None else "examples" if config.train.examples else "epochs"
        )
        enough = {
            "steps": FEW_STEPS,
            "examples": math.ceil(FEW_STEPS * size.examples),
            "epochs": math.ceil(FEW_STEPS / steps_per_epoch),
        }[setting]
        remedies.append(f"config.train.{setting}={enough} for more of them")
    remedies = remedies or ["a smaller config.data.max_length, for fewer examples a row"]
    return (
        f"warning: {total:,} steps in all and {steps_per_epoch:,} an epoch; with fewer than {FEW_STEPS} in a run or "
        f"{FEW_STEPS_AN_EPOCH} an epoch a model may hardly learn. Set {' or '.join(remedies)}"
    )
