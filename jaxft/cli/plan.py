"""Tells what a run would take of hardware that isn't here: `python -m jaxft plan --config ... --topology v5e:4x4`."""

import argparse
import dataclasses
import json
import sys
from pathlib import Path

from jaxft.config.sections import Settings
from jaxft.errors import EXIT_DOES_NOT_FIT, EXIT_INTERRUPTED, UserError, exit_on_user_error
from jaxft.parallel import chips
from jaxft.parallel.mesh import AXES
from jaxft.planning import topology
from jaxft.planning.estimate import Assumptions, Estimate, estimate
from jaxft.planning.search import Changes, Plan, changed, find_remedies, meshes, recommend
from jaxft.training.settings import load_settings


def make_parser() -> argparse.ArgumentParser:
    """The flags."""
    flags = argparse.ArgumentParser(
        prog="python -m jaxft plan",
        description="Compiles a run's train step for devices that need not be here and tells what it takes.",
        epilog="Any setting: --config.batch.rows=256. Exit code 4: it doesn't fit.",
        allow_abbrev=False,
    )
    flags.add_argument(
        "--config", required=True, help="recipe, e.g. configs/ner.py:offline, or a config.json"
    )
    kind = flags.add_mutually_exclusive_group(required=True)
    kind.add_argument("--topology", help="v5e:4x4 or another TPU slice that libtpu knows, or cpu:8")
    kind.add_argument("--scale", help="several topologies with commas between: a table of them")
    flags.add_argument("--sweep", action="store_true", help="compare meshes for --topology, recommend one")
    flags.add_argument("--chip", help="reckon times and memory by this chip; default the topology's own")
    flags.add_argument("--memory_gib", type=float, help="memory of a device, in place of its chip's")
    flags.add_argument("--rows_per_device", type=int, help="sets config.batch.rows by the number of devices")
    flags.add_argument("--labels", type=int, default=9, help="of a head of labels; data is not read")
    flags.add_argument(
        "--padding", type=float, default=0.0, help="fraction of slots without a token, for MFU"
    )
    flags.add_argument("--json", action="store_true", help="print JSON")
    flags.add_argument("--dump", type=Path, help="file for the compiled program's text")
    return flags


def main(argv: list[str] | None = None) -> None:
    """Parses the flags, plans, prints, and exits with `EXIT_DOES_NOT_FIT` where the step doesn't fit."""
    flags, rest = make_parser().parse_known_args(argv)
    with exit_on_user_error():
        if unknown := [text for text in rest if not text.startswith("--config.")]:
            raise UserError(f"{unknown[0]}: unknown flag; settings are given as --config.optim.lr=3e-5")
        _check(flags)
        config = load_settings(flags.config, rest)
        names = flags.scale.split(",") if flags.scale else [flags.topology]
        topology.prepare(names)
        try:
            fits = (plan_topologies if flags.scale else plan_meshes if flags.sweep else plan_step)(
                flags, config, names
            )
        except KeyboardInterrupt:
            sys.exit(EXIT_INTERRUPTED)
    if not fits:
        sys.exit(EXIT_DOES_NOT_FIT)


def plan_step(flags: argparse.Namespace, config: Settings, names: list[str]) -> bool:
    """Plans one step, and where it doesn't fit looks for what would; says whether it fits."""
    config, plan = make_planner(flags, config, names[0])
    found, text = plan(config)
    if flags.dump and text is not None:
        flags.dump.write_text(text, encoding="utf-8")
    tried = [] if found.fits is not False else list(find_remedies(config, found, plan))
    if flags.json:
        better = [{"flags": _flags(changes), **dataclasses.asdict(e)} for changes, e in tried]
        print(json.dumps(dataclasses.asdict(found) | {"remedies": better}, indent=1))
    else:
        print(describe_estimate(found))
        if found.fits is False:
            print("\n".join(_advice(tried)))
    return found.fits is not False


def plan_meshes(flags: argparse.Namespace, config: Settings, names: list[str]) -> bool:
    """Plans all meshes of `meshes`, recommends the quickest that fits; says whether one does."""
    config, plan = make_planner(flags, config, names[0])
    found = []
    for sizes in meshes(len(topology.devices(names[0]))):
        try:
            found.append(plan(changed(config, {f"mesh.{axis}": size for axis, size in sizes.items()}))[0])
        except UserError as error:  # rows that don't divide over this mesh
            _progress(f"mesh {_mesh(sizes)}: left out: {error}")
    best = recommend(found)
    if flags.json:
        plans = [dataclasses.asdict(e) for e in found]
        print(json.dumps({"plans": plans, "recommended": best and best.mesh}, indent=1))
    else:
        print(format_table(found))
        if best:
            print(f"recommended: {' '.join(_flags({f'mesh.{k}': v for k, v in best.mesh.items()}))}")
        else:
            print("none fits; python -m jaxft plan with --topology and one of these meshes says what would")
    return best is not None


def plan_topologies(flags: argparse.Namespace, config: Settings, names: list[str]) -> bool:
    """Plans the step on each topology; says whether it fits all of them."""
    found = []
    for name in names:
        own, plan = make_planner(flags, config, name)
        found.append(plan(own)[0])
    print(
        json.dumps({"plans": [dataclasses.asdict(e) for e in found]}, indent=1)
        if flags.json
        else format_table(found)
    )
    return all(e.fits is not False for e in found)


def make_planner(flags: argparse.Namespace, config: Settings, name: str) -> tuple[Settings, Plan]:
    """The settings for topology `name`, and what makes an `Estimate` of settings for it."""
    devices = topology.devices(name)
    if flags.chip:
        chip = next(chip for chip in chips.CHIPS if chip.name == flags.chip)
    else:
        chip = chips.find_chip(devices[0].device_kind)
        if chip is None and not name.startswith("cpu:"):
            _progress(f"{devices[0].device_kind} is not in jaxft/chips.py: no times; --chip takes another's")
    if flags.rows_per_device:
        config = changed(config, {"batch.rows": flags.rows_per_device * len(devices)})
    memory = None if flags.memory_gib is None else round(flags.memory_gib * chips.GIB)
    assumptions = Assumptions(flags.labels, flags.padding, memory)

    def plan(config: Settings) -> tuple[Estimate, str | None]:
        found = estimate(config, devices, topology=name, chip=chip, assumptions=assumptions)
        one = found[0]
        how = f"mesh {_mesh(one.mesh)}, remat {one.remat}, microbatches {one.accumulate}"
        _progress(f"{name}, {how}: compiled in {one.compile_s:.1f} s")
        return found

    return config, plan


def describe_estimate(e: Estimate) -> str:
    """The estimate in words."""
    if e.temporary_bytes_per_device is None:
        memory = f"the compiler gave up at {_size(e.peak_bytes_per_device)}"
    else:
        memory = f"temporaries {_size(e.temporary_bytes_per_device)}; peak {_size(e.peak_bytes_per_device)}"
    verdict = {True: "fits", False: "does NOT fit", None: "--memory_gib or --chip tell whether it fits"}[
        e.fits
    ]
    whole = ", reckoned as if tensor split none" if e.mesh["tensor"] > 1 else ""
    of = f" of {_size(e.hbm_bytes_per_device)}" if e.hbm_bytes_per_device else ""
    lines = [
        f"{e.topology}: {e.devices} x {e.device_kind}, mesh {_mesh(e.mesh)}",
        f"step          {e.rows} rows of {e.length} in {e.accumulate} microbatches, {e.dtype}, remat {e.remat}",
        f"parameters    {e.parameters:,}",
        f"bytes/device  parameters {_size(e.param_bytes_per_device)}, optimizer {_size(e.optimizer_bytes_per_device)}, "
        f"activations {_size(e.activation_bytes_per_device)} (kept for the backward pass, part of temporaries{whole}), "
        f"{memory}{of}: {verdict}",
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
            f"              {kind}: {v['count']}, {_size(v['bytes'])}, the largest {_size(v['largest_bytes'])}"
            for kind, v in e.collectives.items()
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


def format_table(found: list[Estimate]) -> str:
    """Estimates side by side, a Markdown table; bytes are a device's, in MiB."""
    head = "topology | data x fsdp x tensor | rows | parameters | optimizer | peak | fits | sent | needed | "
    head += "roofline ms | bound | MFU"
    lines = [f"| {head} |", "| " + " | ".join(["---"] * (head.count("|") + 1)) + " |"]
    for e in found:
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
    """Raises `UserError` for flags that cannot be."""
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
