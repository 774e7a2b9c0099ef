"""The verb `plan`: tells what a run would take of hardware that need not be here."""

import argparse
import dataclasses
import json
import sys
from pathlib import Path

from jaxft.cli.command import check_overrides
from jaxft.config.sections import Settings
from jaxft.errors import EXIT_DOES_NOT_FIT, EXIT_INTERRUPTED, UserError, exit_on_user_error
from jaxft.parallel import chips
from jaxft.parallel.mesh import AXES
from jaxft.planning import topology
from jaxft.planning.estimate import Assumptions, Estimate, estimate
from jaxft.planning.search import Changes, Plan, changed, find_remedies, meshes, recommend
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
    parser.add_argument("--chip", help="reckon times and memory by this chip; default the topology's own")
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
    """Parses the flags, plans, prints, and exits with `EXIT_DOES_NOT_FIT` if the step doesn't fit."""
    flags, overrides = make_parser().parse_known_args(argv)
    with exit_on_user_error():
        check_overrides(overrides)
        _check(flags)
        config = load_settings(flags.config, overrides)
        names = flags.scale.split(",") if flags.scale else [flags.topology]
        topology.prepare(names)
        run_plan = plan_topologies if flags.scale else plan_meshes if flags.sweep else plan_step
        try:
            fits = run_plan(flags, config, names)
        except KeyboardInterrupt:
            sys.exit(EXIT_INTERRUPTED)
    if not fits:
        sys.exit(EXIT_DOES_NOT_FIT)


def plan_step(flags: argparse.Namespace, config: Settings, names: list[str]) -> bool:
    """Plans the step on one mesh, and looks for remedies if it doesn't fit; returns whether it fits."""
    config, plan = make_planner(flags, config, names[0])
    estimated, program_text = plan(config)
    if flags.dump and program_text is not None:
        flags.dump.write_text(program_text, encoding="utf-8")
    tried = [] if estimated.fits is not False else list(find_remedies(config, estimated, plan))
    if flags.json:
        remedies = [{"flags": _flags(changes), **dataclasses.asdict(e)} for changes, e in tried]
        print(json.dumps(dataclasses.asdict(estimated) | {"remedies": remedies}, indent=1))
    else:
        print(describe_estimate(estimated))
        if estimated.fits is False:
            print("\n".join(_advice(tried)))
    return estimated.fits is not False


def plan_meshes(flags: argparse.Namespace, config: Settings, names: list[str]) -> bool:
    """Plans the step on many meshes and recommends the quickest that fits; returns whether any does."""
    config, plan = make_planner(flags, config, names[0])
    estimates = []
    for sizes in meshes(len(topology.devices(names[0]))):
        try:
            estimated, _ = plan(changed(config, {f"mesh.{axis}": size for axis, size in sizes.items()}))
            estimates.append(estimated)
        except UserError as error:  # rows that don't divide over this mesh
            _progress(f"mesh {_mesh(sizes)}: left out: {error}")
    best = recommend(estimates)
    if flags.json:
        plans = [dataclasses.asdict(e) for e in estimates]
        print(json.dumps({"plans": plans, "recommended": best.mesh if best else None}, indent=1))
    else:
        print(format_table(estimates))
        if best:
            print(f"recommended: {' '.join(_flags({f'mesh.{k}': v for k, v in best.mesh.items()}))}")
        else:
            print("none fits; python -m jaxft plan with --topology and one of these meshes says what would")
    return best is not None


def plan_topologies(flags: argparse.Namespace, config: Settings, names: list[str]) -> bool:
    """Plans the step on each topology and prints a table; returns whether it fits all of them."""
    estimates = []
    for name in names:
        topology_config, plan = make_planner(flags, config, name)
        estimated, _ = plan(topology_config)
        estimates.append(estimated)
    if flags.json:
        print(json.dumps({"plans": [dataclasses.asdict(e) for e in estimates]}, indent=1))
    else:
        print(format_table(estimates))
    return all(e.fits is not False for e in estimates)


def make_planner(flags: argparse.Namespace, config: Settings, name: str) -> tuple[Settings, Plan]:
    """Returns the settings for topology `name`, and a function that estimates a step of any settings on it."""
    devices = topology.devices(name)
    if flags.chip:
        chip = next(chip for chip in chips.CHIPS if chip.name == flags.chip)
    else:
        chip = chips.find_chip(devices[0].device_kind)
        if chip is None and not name.startswith("cpu:"):
            _progress(
                f"{devices[0].device_kind} is not in jaxft/parallel/chips.py: no times; --chip takes another's"
            )
    if flags.rows_per_device:
        config = changed(config, {"batch.rows": flags.rows_per_device * len(devices)})
    memory = None if flags.memory_gib is None else round(flags.memory_gib * chips.GIB)
    assumptions = Assumptions(flags.labels, flags.padding, memory)

    def plan(config: Settings) -> tuple[Estimate, str | None]:
        estimated, program_text = estimate(config, devices, topology=name, chip=chip, assumptions=assumptions)
        variant = (
            f"mesh {_mesh(estimated.mesh)}, remat {estimated.remat}, microbatches {estimated.accumulate}"
        )
        _progress(f"{name}, {variant}: compiled in {estimated.compile_s:.1f} s")
        return estimated, program_text

    return config, plan


def describe_estimate(e: Estimate) -> str:
    """Returns the estimate in words, over several lines."""
    if e.temporary_bytes_per_device is None:
        memory = f"the compiler gave up at {_size(e.peak_bytes_per_device)}"
    else:
        memory = f"temporaries {_size(e.temporary_bytes_per_device)}; peak {_size(e.peak_bytes_per_device)}"
    verdicts = {True: "fits", False: "does NOT fit", None: "--memory_gib or --chip tell whether it fits"}
    as_if = ", reckoned as if tensor split none" if e.mesh["tensor"] > 1 else ""
    limit = f" of {_size(e.hbm_bytes_per_device)}" if e.hbm_bytes_per_device else ""
    lines = [
        f"{e.topology}: {e.devices} x {e.device_kind}, mesh {_mesh(e.mesh)}",
        f"step          {e.rows} rows of {e.length} in {e.accumulate} microbatches, {e.dtype}, remat {e.remat}",
        f"parameters    {e.parameters:,}",
        f"bytes/device  parameters {_size(e.param_bytes_per_device)}, optimizer {_size(e.optimizer_bytes_per_device)}, "
        f"activations {_size(e.activation_bytes_per_device)} (kept for the backward pass, part of temporaries{as_if}), "
        f"{memory}{limit}: {verdicts[e.fits]}",
    ]
    if e.flops_per_step is not None:
        needed = (
            f"; the algorithm needs {_size(e.collective_bytes_needed)}" if e.collective_bytes_needed else ""
        )
        lines += [
            f"FLOPs/step    {e.flops_per_step:.4g} of matrix products; the model's {e.model_flops_per_step:.4g}",
            f"memory        {_size(e.memory_bytes_per_device)} read and written by a device in a step",
            f"collectives   {_size(e.collective_bytes_per_device)} sent by a device in a step{needed}",
        ]
        lines += [
            f"              {kind}: {sums['count']}, {_size(sums['bytes'])}, the largest {_size(sums['largest_bytes'])}"
            for kind, sums in e.collectives.items()
        ]
    if e.roofline_s is not None:
        lines.append(
            f"roofline      {1e3 * e.roofline_s:.3g} ms, bound by {e.bound} (compute {1e3 * e.compute_s:.3g}, memory "
            f"{1e3 * e.memory_s:.3g}, interconnect {1e3 * e.interconnect_s:.3g}); MFU {e.mfu:.1%} at best"
        )
    if e.left_whole:
        lines.append(f"note          {e.left_whole}")
    if e.unknown_loops:
        lines.append(f"note          {e.unknown_loops} loops of unknown length: counted as all labels need")
    return "\n".join([*lines, f"compiled in {e.compile_s:.1f} s"])


def format_table(estimates: list[Estimate]) -> str:
    """Returns a Markdown table of estimates; bytes are a device's, in MiB."""
    head = "topology | data x fsdp x tensor | rows | parameters | optimizer | peak | fits | sent | needed | "
    head += "roofline ms | bound | MFU"
    lines = [f"| {head} |", "| " + " | ".join(["---"] * (head.count("|") + 1)) + " |"]
    for e in estimates:
        cells = [
            e.topology,
            " x ".join(str(e.mesh[axis]) for axis in AXES),
            f"{e.rows:,}",
            *(
                _mib(n)
                for n in (e.param_bytes_per_device, e.optimizer_bytes_per_device, e.peak_bytes_per_device)
            ),
            {True: "yes", False: "no", None: "?"}[e.fits],
            _mib(e.collective_bytes_per_device),
            _mib(e.collective_bytes_needed),
            "?" if e.roofline_s is None else f"{1e3 * e.roofline_s:.3g}",
            e.bound or "?",
            "?" if e.mfu is None else f"{e.mfu:.0%}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _advice(tried: list[tuple[Changes, Estimate]]) -> list[str]:
    """Returns the lines about the changes that make the step fit."""
    if not tried:
        return [
            "nothing that was tried makes it fit (microbatches, remat, fsdp): take more devices or larger ones"
        ]
    lines = ["what makes it fit, tried:"]
    for changes, e in tried:
        time = "" if e.roofline_s is None else f", roofline {1e3 * e.roofline_s:.3g} ms"
        lines.append(f"  {' '.join(_flags(changes))}: peak {_size(e.peak_bytes_per_device)}{time}")
    return lines


def _check(flags: argparse.Namespace) -> None:
    """Raises `UserError` for values and combinations of flags that make no sense."""
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
    for name, least in (("labels", 1), ("rows_per_device", 1), ("memory_gib", 1e-9)):
        if (value := getattr(flags, name)) is not None and value < least:
            raise UserError(f"--{name} {value}: expected more than 0")


def _flags(changes: Changes) -> list[str]:
    """Returns the flags that make these changes to the settings."""
    return [f"--config.{key}={value}" for key, value in changes.items()]


def _mesh(sizes: dict[str, int]) -> str:
    return ", ".join(f"{axis} {size}" for axis, size in sizes.items())


def _mib(size: int | None) -> str:
    return "?" if size is None else f"{size / 2**20:,.1f}"


def _size(size: int | None) -> str:
    if size is None:
        return "?"
    return f"{size / 2**30:,.2f} GiB" if size >= 2**30 else f"{size / 2**20:,.2f} MiB"


def _progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
