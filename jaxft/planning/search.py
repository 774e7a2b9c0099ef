"""Searches for meshes and settings by which a train step fits the hardware, and is quick."""

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
TENSOR_WAYS = (1, 2, 4)  # that are tried

Changes = dict[str, Any]  # settings by key, {"batch.accumulate": 4}
Planner = Callable[[Settings], tuple[Estimate, str | None]]  # `estimate_step` for devices that are chosen


def with_changes(config: Settings, changes: Changes) -> Settings:
    """Returns a copy of the settings with some changed, and checked."""
    return settings_from_config(flatten(config) | changes)


def choose_chip(
    name: str | None, devices: Sequence[jax.Device], topology: str, log: Callable[[str], None]
) -> chips.Chip | None:
    """Returns the chip to estimate by: the one called `name`, else that of the devices; None if it isn't known."""
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
    """Returns a function that estimates the step of any settings on `devices`, as `estimate_step` does.

    Args:
        devices: those to compile for.
        topology: their name.
        chip: the chip that gives times and memory.
        assumptions: numbers that neither settings nor devices say.
        log: gets a line after each compilation.
    """

    def plan(config: Settings) -> tuple[Estimate, str | None]:
        estimate, text = estimate_step(config, devices, topology=topology, chip=chip, assumptions=assumptions)
        mesh = format_mesh(estimate.mesh)
        options = f"mesh {mesh}, remat {estimate.remat}, microbatches {estimate.accumulate}"
        log(f"{topology}, {options}: compiled in {estimate.compile_s:.1f} s")
        return estimate, text

    return plan


def list_meshes(devices: int) -> Iterator[dict[str, int]]:
    """Yields meshes of so many devices: all data, all fsdp and halfway between, for each number of tensor ways."""
    for tensor in TENSOR_WAYS:
        if devices % tensor == 0:
            rest = devices // tensor
            middle = next(n for n in range(int(rest**0.5), 0, -1) if rest % n == 0)
            for data in sorted({1, middle, rest}):
                yield {"data": data, "fsdp": rest // data, "tensor": tensor}


def estimate_meshes(
    config: Settings, devices: int, plan: Planner, log: Callable[[str], None]
) -> list[Estimate]:
    """Estimates the step on each of `list_meshes`; logs those that the rows don't divide over, and leaves them out."""
    estimates = []
    for sizes in list_meshes(devices):
        try:
            changes = {f"mesh.{axis}": size for axis, size in sizes.items()}
            estimates.append(plan(with_changes(config, changes))[0])
        except UserError as error:
            log(f"mesh {format_mesh(sizes)}: left out: {error}")
    return estimates


def recommend(estimates: list[Estimate]) -> Estimate | None:
    """Returns the quickest estimate that fits; None if none does.

    Of those as quick within 2%, or if there are no times, it is the one of least memory.
    """
    fitting = [estimate for estimate in estimates if estimate.fits is not False]
    shortest = min((estimate.roofline_s for estimate in fitting if estimate.roofline_s), default=None)
    quick = [estimate for estimate in fitting if shortest is None or estimate.roofline_s <= 1.02 * shortest]
    return min(quick, key=lambda estimate: estimate.peak_bytes_per_device, default=None)


def find_remedies(config: Settings, estimate: Estimate, plan: Planner) -> Iterator[tuple[Changes, Estimate]]:
    """Yields changes that make the step fit, each tried, with their estimate.

    These are single changes: for each of microbatches, recomputation and fsdp the smallest that is enough. If no single
    change is enough, it is the first combination that is, if any.

    Args:
        config: settings whose step doesn't fit.
        estimate: their estimate.
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
    rows = estimate.rows // (estimate.accumulate * ways)  # of a microbatch, on a device
    accumulate: list[Changes] = [
        {"batch.accumulate": estimate.accumulate * n} for n in range(2, rows + 1) if rows % n == 0
    ]
    is_single_enough = False
    for alternatives in (accumulate, remat, fsdp):
        for changes in alternatives:
            if "mesh.fsdp" not in changes and state_bytes > estimate.hbm_bytes_per_device:
                break  # neither rows nor recomputation make the state smaller
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
