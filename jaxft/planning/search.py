"""Searches for meshes and settings with which a train step fits the hardware and is quick."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax

from jaxft.config.sections import Settings
from jaxft.config.settings import flatten
from jaxft.errors import UserError
from jaxft.parallel import chips
from jaxft.planning.estimate import Assumptions, Estimate, estimate_step
from jaxft.planning.render import format_mesh
from jaxft.training.settings import settings_from_config

REMATS = ("none", "dots", "full")  # from the most memory to the least
TENSOR_WAYS = (1, 2, 4)  # the sizes of the axis tensor that are tried

Changes = dict[str, Any]  # settings by key, such as {"batch.accumulate": 4}
Planner = Callable[[Settings], tuple[Estimate, str | None]]  # `estimate_step` for certain devices


def with_changes(config: Settings, changes: Changes) -> Settings:
    """Returns a checked copy of the settings with `changes`."""
    return settings_from_config(flatten(config) | changes)


def choose_chip(
    name: str | None, devices: Sequence[jax.Device], topology: str, log: Callable[[str], None]
) -> chips.Chip | None:
    """Returns the chip for the estimate: the chip called `name`, else the devices' chip; None if it is unknown."""
    if name is not None:
        return next(chip for chip in chips.CHIPS if chip.name == name)
    kind = devices[0].device_kind
    chip = chips.find_chip(kind)
    if chip is None and not topology.startswith("cpu:"):
        log(f"{kind} is not in jaxft/parallel/chips.py: no times; --chip takes another's")
    return chip


def make_planner(
    devices: Sequence[jax.Device],
    *,
    topology: str,
    chip: chips.Chip | None,
    assumptions: Assumptions,
    log: Callable[[str], None],
) -> Planner:
    """Returns a function that estimates the step of any settings on `devices`, like `estimate_step`.

    Args:
        devices: the devices to compile for.
        topology: the name of the devices.
        chip: the chip that determines times and memory.
        assumptions: numbers that follow neither from settings nor from devices.
        log: prints a line after each compilation.
    """

    def plan(config: Settings) -> tuple[Estimate, str | None]:
        estimate, text = estimate_step(config, devices, topology=topology, chip=chip, assumptions=assumptions)
        mesh = format_mesh(estimate.mesh)
        options = f"mesh {mesh}, remat {estimate.remat}, microbatches {estimate.accumulate}"
        log(f"{topology}, {options}: compiled in {estimate.compile_s:.1f} s")
        return estimate, text

    return plan


def list_meshes(devices: int) -> Iterator[dict[str, int]]:
    """Yields meshes of `devices` devices: for each of `TENSOR_WAYS`, only data, only fsdp, and a mesh between."""
    for tensor in TENSOR_WAYS:
        if devices % tensor == 0:
            rest = devices // tensor
            middle = next(n for n in range(int(rest**0.5), 0, -1) if rest % n == 0)
            for data in sorted({1, middle, rest}):
                yield {"data": data, "fsdp": rest // data, "tensor": tensor}


def estimate_meshes(
    config: Settings, devices: int, plan: Planner, log: Callable[[str], None]
) -> list[Estimate]:
    """Estimates the step on each of `list_meshes`. Logs and omits meshes that do not divide the rows."""
    estimates = []
    for sizes in list_meshes(devices):
        try:
            changes = {f"mesh.{axis}": size for axis, size in sizes.items()}
            estimates.append(plan(with_changes(config, changes))[0])
        except UserError as error:
            log(f"mesh {format_mesh(sizes)}: left out: {error}")
    return estimates


def recommend(estimates: list[Estimate]) -> Estimate | None:
    """Returns the quickest estimate that fits; None if no estimate fits.

    Among estimates within 2% of the quickest, or if there are no times, it returns the one with the least memory.
    """
    fitting = [estimate for estimate in estimates if estimate.fits is not False]
    shortest = min((estimate.roofline_s for estimate in fitting if estimate.roofline_s), default=None)
    quick = [e for e in fitting if shortest is None or (e.roofline_s or math.inf) <= 1.02 * shortest]
    return min(quick, key=lambda estimate: estimate.peak_bytes_per_device or math.inf, default=None)


def find_remedies(config: Settings, estimate: Estimate, plan: Planner) -> Iterator[tuple[Changes, Estimate]]:
    """Yields changes that make the step fit, with the estimate that shows it.

    For each of microbatches, recomputation and fsdp it yields the smallest change that is enough alone. If no single
    change is enough, it yields the first combination that is enough, if there is one.

    Args:
        config: settings whose step does not fit.
        estimate: the estimate for these settings.
        plan: estimates the step of other settings.
    """
    state_bytes = estimate.param_bytes_per_device + estimate.optimizer_bytes_per_device
    ways = estimate.mesh["data"] * estimate.mesh["fsdp"]
    fsdp: list[Changes] = []
    if estimate.mesh["data"] > 1:
        fsdp = [{"mesh.data": 1, "mesh.fsdp": ways, "mesh.tensor": estimate.mesh["tensor"]}]
    # A CPU recomputes layers only in a loop.
    in_loop = {"model.unroll": "auto"} if config.model.unroll == "yes" else {}
    remat = [{"model.remat": name} | in_loop for name in REMATS[REMATS.index(estimate.remat) + 1 :]]
    asked = config.batch.accumulate
    rows = estimate.rows // (asked * ways)  # the rows of a microbatch on a device
    accumulate: list[Changes] = [{"batch.accumulate": asked * n} for n in range(2, rows + 1) if rows % n == 0]
    is_single_enough = False
    for alternatives in (accumulate, remat, fsdp):
        for changes in alternatives:
            if "mesh.fsdp" not in changes and state_bytes > (estimate.hbm_bytes_per_device or math.inf):
                break  # neither fewer rows nor recomputation make the state smaller
            changed, _ = plan(with_changes(config, changes))
            if changed.fits:
                is_single_enough = True
                yield changes, changed
                break
    if is_single_enough:
        return
    strongest = [alternatives[-1] if alternatives else {} for alternatives in (fsdp, remat, accumulate)]
    for kinds in ((0, 1), (0, 2), (1, 2), (0, 1, 2)):
        if all(strongest[kind] for kind in kinds):
            changes = {key: value for kind in kinds for key, value in strongest[kind].items()}
            changed, _ = plan(with_changes(config, changes))
            if changed.fits:
                yield changes, changed
                return
