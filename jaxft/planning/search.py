"""Searches for settings that fit the hardware."""

from collections.abc import Callable, Iterator
from typing import Any

from jaxft.config.sections import Settings
from jaxft.config.settings import flatten
from jaxft.planning.estimate import Estimate
from jaxft.training.settings import settings_from_config

REMATS = ("none", "dots", "full")  # from the most memory to the least


TENSOR_WAYS = (1, 2, 4)  # that a sweep tries


Changes = dict[str, Any]  # settings by key, {"batch.accumulate": 4}


Plan = Callable[[Settings], tuple[Estimate, str | None]]


def changed(config: Settings, changes: Changes) -> Settings:
    """A copy of the settings with some changed, and checked."""
    return settings_from_config(flatten(config) | changes)


def meshes(devices: int) -> Iterator[dict[str, int]]:
    """Meshes of so many devices: all data, all fsdp and halfway between, for each number of tensor ways."""
    for tensor in TENSOR_WAYS:
        if devices % tensor == 0:
            rest = devices // tensor
            middle = next(n for n in range(int(rest**0.5), 0, -1) if rest % n == 0)
            for data in sorted({1, middle, rest}):
                yield {"data": data, "fsdp": rest // data, "tensor": tensor}


def recommend(found: list[Estimate]) -> Estimate | None:
    """Of those that fit the quickest; of those as quick within 2%, or without times, the one of least memory."""
    fitting = [e for e in found if e.fits is not False]
    shortest = min((e.roofline_s for e in fitting if e.roofline_s), default=None)
    quick = [e for e in fitting if shortest is None or e.roofline_s <= 1.02 * shortest]
    return min(quick, key=lambda e: e.peak_bytes_per_device, default=None)


def find_remedies(config: Settings, found: Estimate, plan: Plan) -> Iterator[tuple[Changes, Estimate]]:
    """What makes the step fit, each tried: single changes, or if none is enough the first combination that is."""
    state = found.param_bytes_per_device + found.optimizer_bytes_per_device
    ways = found.mesh["data"] * found.mesh["fsdp"]
    fsdp: list[Changes] = []
    if found.mesh["data"] > 1:
        fsdp = [{"mesh.data": 1, "mesh.fsdp": ways, "mesh.tensor": found.mesh["tensor"]}]
    # A CPU takes remat in a loop only.
    looped = {"model.unroll": "auto"} if config.model.unroll == "yes" else {}
    remat = [{"model.remat": name} | looped for name in REMATS[REMATS.index(found.remat) + 1 :]]
    rows = found.rows // (found.accumulate * ways)  # of a microbatch, on a device
    accumulate: list[Changes] = [
        {"batch.accumulate": found.accumulate * n} for n in range(2, rows + 1) if rows % n == 0
    ]
    enough = False
    for kind in (accumulate, remat, fsdp):
        for changes in kind:
            if "mesh.fsdp" not in changes and state > found.hbm_bytes_per_device:
                break  # neither rows nor recomputation make the state smaller
            tried, _ = plan(changed(config, changes))
            if tried.fits:
                enough = True
                yield changes, tried
                break
    if enough:
        return
    last = [kind[-1] if kind else {} for kind in (fsdp, remat, accumulate)]
    for parts in ((0, 1), (0, 2), (1, 2), (0, 1, 2)):
        if all(last[part] for part in parts):
            changes = {key: value for part in parts for key, value in last[part].items()}
            tried, _ = plan(changed(config, changes))
            if tried.fits:
                yield changes, tried
                return
