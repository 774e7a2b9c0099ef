"""Plans a run's train step on topologies, and prints what it takes, for `jaxft plan`."""

import argparse
import dataclasses
import json
from collections.abc import Callable

import jax

from jaxft.config.sections import Settings
from jaxft.errors import UserError
from jaxft.parallel import chips
from jaxft.planning import topology
from jaxft.planning.estimate import Assumptions
from jaxft.planning.render import describe_estimate, describe_remedies, format_flags, format_table
from jaxft.planning.search import (
    Planner,
    choose_chip,
    estimate_meshes,
    find_remedies,
    make_planner,
    recommend,
    with_changes,
)

Log = Callable[[str], None]


def print_plans(flags: argparse.Namespace, config: Settings, log: Log) -> bool:
    """Prints the plans that the flags of `plan` ask for. Returns whether the step fits.

    Raises:
      UserError: a chip or a topology is unknown.
    """
    if flags.chip and flags.chip not in (names := [chip.name for chip in chips.CHIPS]):
        raise UserError(f"--chip {flags.chip}: unknown; expected one of {', '.join(names)}")
    names = flags.scale.split(",") if flags.scale else [flags.topology]
    topology.prepare_jax(names)
    if flags.scale:
        return _plan_topologies(flags, config, names, log)
    if flags.sweep:
        return _plan_meshes(flags, config, names, log)
    return _plan_step(flags, config, names, log)


def _plan_step(flags: argparse.Namespace, config: Settings, names: list[str], log: Log) -> bool:
    """Prints the estimate of one step, and settings that fit if it does not. Returns whether it fits."""
    devices = topology.find_devices(names[0])
    config, plan = _make_planner(flags, config, names[0], devices, log)
    estimate, text = plan(config)
    if flags.dump and text is not None:
        flags.dump.write_text(text, encoding="utf-8")
    does_fit = estimate.fits is not False
    remedies = [] if does_fit else list(find_remedies(config, estimate, plan))
    if flags.json:
        remedy_rows = [
            {"flags": format_flags(changes), **dataclasses.asdict(changed)} for changes, changed in remedies
        ]
        print(json.dumps(dataclasses.asdict(estimate) | {"remedies": remedy_rows}, indent=1))
    else:
        print(describe_estimate(estimate))
        if not does_fit:
            print(describe_remedies(remedies))
    return does_fit


def _plan_meshes(flags: argparse.Namespace, config: Settings, names: list[str], log: Log) -> bool:
    """Prints the estimates for several meshes, and recommends one. Returns whether any fits."""
    devices = topology.find_devices(names[0])
    config, plan = _make_planner(flags, config, names[0], devices, log)
    estimates = estimate_meshes(config, len(devices), plan, log)
    best = recommend(estimates)
    if flags.json:
        plans = [dataclasses.asdict(estimate) for estimate in estimates]
        print(json.dumps({"plans": plans, "recommended": None if best is None else best.mesh}, indent=1))
    else:
        print(format_table(estimates))
        if best is None:
            print("none fits; jaxft plan with --topology and one of these meshes says what would")
        else:
            changes = {f"mesh.{axis}": size for axis, size in best.mesh.items()}
            print(f"recommended: {' '.join(format_flags(changes))}")
    return best is not None


def _plan_topologies(flags: argparse.Namespace, config: Settings, names: list[str], log: Log) -> bool:
    """Prints the estimate of the step on each topology. Returns whether it fits all of them."""
    estimates = []
    for name in names:
        topology_config, plan = _make_planner(flags, config, name, topology.find_devices(name), log)
        estimates.append(plan(topology_config)[0])
    if flags.json:
        print(json.dumps({"plans": [dataclasses.asdict(estimate) for estimate in estimates]}, indent=1))
    else:
        print(format_table(estimates))
    return all(estimate.fits is not False for estimate in estimates)


def _make_planner(
    flags: argparse.Namespace, config: Settings, name: str, devices: list[jax.Device], log: Log
) -> tuple[Settings, Planner]:
    """Returns the settings for topology `name`, which has `devices`, and the planner that estimates steps on it."""
    chip = choose_chip(flags.chip, devices, name, log)
    if flags.rows_per_device:
        config = with_changes(
            config, {"batch.rows": flags.rows_per_device * len(devices), "batch.examples": None}
        )
    elif config.batch.rows is None and config.rows_are_examples:
        rows = config.batch.examples or config.default_examples
        config = with_changes(config, {"batch.rows": rows, "batch.examples": None})
    if config.batch.rows is None:
        raise UserError(
            "config.batch.rows is not set, and without the data nobody knows how many rows hold "
            f"config.batch.examples={config.batch.examples or config.default_examples}: give the rows, by "
            "--config.batch.rows=8 or --rows_per_device 8; the log of a run names its own"
        )
    memory = None if flags.memory_gib is None else round(flags.memory_gib * chips.GIB)
    assumptions = Assumptions(flags.labels, flags.padding, memory)
    return config, make_planner(devices, topology=name, chip=chip, assumptions=assumptions, log=log)
