"""Defines the verb `plan`: estimates the memory and time of a run's train step on hardware that need not be here."""

import argparse
import dataclasses
import json
import sys
from pathlib import Path

import jax

from jaxft.cli.command import check_overrides, log_to_stderr
from jaxft.config.sections import Settings
from jaxft.errors import EXIT_DOES_NOT_FIT, EXIT_INTERRUPTED, UserError, exit_on_user_error
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
from jaxft.training.settings import load_settings


def make_parser() -> argparse.ArgumentParser:
    """Returns the parser of the verb's flags."""
    parser = argparse.ArgumentParser(
        prog="python -m jaxft plan",
        description="Compiles a run's train step for devices that need not be here and tells what it takes.",
        epilog="Any setting: --config.batch.rows=256. Exit code 4: it doesn't fit.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config", required=True, help="recipe, e.g. configs/ner.py:offline, or a config.json"
    )
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument("--topology", help="v5e:4x4 or another TPU slice that libtpu knows, or cpu:8")
    kind.add_argument("--scale", help="several topologies with commas between: a table of them")
    parser.add_argument("--sweep", action="store_true", help="compare meshes for --topology, recommend one")
    parser.add_argument("--chip", help="compute times and memory by this chip; default the topology's own")
    parser.add_argument("--memory_gib", type=float, help="memory of a device, in place of its chip's")
    parser.add_argument("--rows_per_device", type=int, help="sets config.batch.rows by the number of devices")
    parser.add_argument("--labels", type=int, default=9, help="of a head of labels; data is not read")
    parser.add_argument(
        "--padding", type=float, default=0.0, help="fraction of slots without a token, for MFU"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--dump", type=Path, help="file for the compiled program's text")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Parses the flags, plans, prints, and exits with `EXIT_DOES_NOT_FIT` if the step does not fit."""
    flags, overrides = make_parser().parse_known_args(argv)
    with exit_on_user_error():
        check_overrides(overrides)
        _check_flags(flags)
        config = load_settings(flags.config, overrides)
        names = flags.scale.split(",") if flags.scale else [flags.topology]
        topology.prepare_jax(names)
        if flags.scale:
            run_plan = plan_topologies
        else:
            run_plan = plan_meshes if flags.sweep else plan_step
        try:
            does_fit = run_plan(flags, config, names)
        except KeyboardInterrupt:
            sys.exit(EXIT_INTERRUPTED)
    if not does_fit:
        sys.exit(EXIT_DOES_NOT_FIT)


def plan_step(flags: argparse.Namespace, config: Settings, names: list[str]) -> bool:
    """Prints the estimate of one step, and settings that fit if it does not. Returns whether it fits."""
    devices = topology.find_devices(names[0])
    config, plan = _make_planner(flags, config, names[0], devices)
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


def plan_meshes(flags: argparse.Namespace, config: Settings, names: list[str]) -> bool:
    """Prints the estimates for several meshes, and recommends one. Returns whether any fits."""
    devices = topology.find_devices(names[0])
    config, plan = _make_planner(flags, config, names[0], devices)
    estimates = estimate_meshes(config, len(devices), plan, log_to_stderr)
    best = recommend(estimates)
    if flags.json:
        plans = [dataclasses.asdict(estimate) for estimate in estimates]
        print(json.dumps({"plans": plans, "recommended": None if best is None else best.mesh}, indent=1))
    else:
        print(format_table(estimates))
        if best is None:
            print("none fits; python -m jaxft plan with --topology and one of these meshes says what would")
        else:
            changes = {f"mesh.{axis}": size for axis, size in best.mesh.items()}
            print(f"recommended: {' '.join(format_flags(changes))}")
    return best is not None


def plan_topologies(flags: argparse.Namespace, config: Settings, names: list[str]) -> bool:
    """Prints the estimate of the step on each topology. Returns whether it fits all of them."""
    estimates = []
    for name in names:
        topology_config, plan = _make_planner(flags, config, name, topology.find_devices(name))
        estimates.append(plan(topology_config)[0])
    if flags.json:
        print(json.dumps({"plans": [dataclasses.asdict(estimate) for estimate in estimates]}, indent=1))
    else:
        print(format_table(estimates))
    return all(estimate.fits is not False for estimate in estimates)


def _make_planner(
    flags: argparse.Namespace, config: Settings, name: str, devices: list[jax.Device]
) -> tuple[Settings, Planner]:
    """Returns the settings for topology `name`, which has `devices`, and the planner that estimates steps on it."""
    chip = choose_chip(flags.chip, devices, name, log_to_stderr)
    if flags.rows_per_device:
        config = with_changes(config, {"batch.rows": flags.rows_per_device * len(devices)})
    memory = None if flags.memory_gib is None else round(flags.memory_gib * chips.GIB)
    assumptions = Assumptions(flags.labels, flags.padding, memory)
    return config, make_planner(devices, topology=name, chip=chip, assumptions=assumptions, log=log_to_stderr)


def _check_flags(flags: argparse.Namespace) -> None:
    """Raises `UserError` for wrong values and combinations of flags."""
    if flags.chip and flags.chip not in (names := [chip.name for chip in chips.CHIPS]):
        raise UserError(f"--chip {flags.chip}: unknown; expected one of {', '.join(names)}")
    if flags.scale and flags.sweep:
        raise UserError("--sweep compares meshes of one --topology; leave --scale out")
    if flags.dump and (flags.scale or flags.sweep):
        raise UserError("--dump is for one plan; leave --sweep and --scale out")
    if flags.dump and not flags.dump.absolute().parent.is_dir():
        raise UserError(f"--dump {flags.dump}: there is no folder {flags.dump.parent}; make it first")
    if not 0 <= flags.padding < 1:
        raise UserError(f"--padding {flags.padding}: expected a fraction, 0 or more and below 1")
    for name, minimum in (("labels", 1), ("rows_per_device", 1), ("memory_gib", 1e-9)):
        if (value := getattr(flags, name)) is not None and value < minimum:
            raise UserError(f"--{name} {value}: expected more than 0")
