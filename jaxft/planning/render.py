"""Renders estimates as text."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxft.parallel.mesh import AXES
from jaxft.planning.estimate import Estimate

VERDICTS = {True: "fits", False: "does NOT fit", None: "--memory_gib or --chip tell whether it fits"}
TABLE_HEAD = (
    "topology",
    "data x fsdp x tensor",
    "rows",
    "parameters",
    "optimizer",
    "peak",
    "fits",
    "sent",
    "needed",
    "roofline ms",
    "bound",
    "MFU",
)


def describe_estimate(estimate: Estimate) -> str:
    """Returns the description of an estimate, in several lines."""
    e = estimate
    if e.temporary_bytes_per_device is None:
        memory = f"the compiler gave up at {_format_size(e.peak_bytes_per_device)}"
    else:
        temporaries = _format_size(e.temporary_bytes_per_device)
        memory = f"temporaries {temporaries}; peak {_format_size(e.peak_bytes_per_device)}"
    if e.hbm_bytes_per_device:
        memory += f" of {_format_size(e.hbm_bytes_per_device)}"
    rows = f"{e.rows} rows, each of one example" if e.length == 1 else f"{e.rows} rows of {e.length}"
    unsplit = ", computed as if tensor split none" if e.mesh["tensor"] > 1 else ""
    lines = [
        f"{e.topology}: {e.devices} x {e.device_kind}, mesh {format_mesh(e.mesh)}",
        f"step          {rows} in {e.accumulate} microbatches, {e.dtype}, remat {e.remat}",
        f"parameters    {e.parameters:,}",
        f"bytes/device  parameters {_format_size(e.param_bytes_per_device)}, "
        f"optimizer {_format_size(e.optimizer_bytes_per_device)}, "
        f"activations {_format_size(e.activation_bytes_per_device)} "
        f"(kept for the backward pass, part of temporaries{unsplit}), {memory}: {VERDICTS[e.fits]}",
    ]
    if e.flops_per_step is not None:
        needed = ""
        if e.collective_bytes_needed:
            needed = f"; the algorithm needs {_format_size(e.collective_bytes_needed)}"
        lines += [
            f"FLOPs/step    {e.flops_per_step:.4g} of matrix products; the model's {e.model_flops_per_step:.4g}",
            f"memory        {_format_size(e.memory_bytes_per_device)} read and written by a device in a step",
            f"collectives   {_format_size(e.collective_bytes_per_device)} sent by a device in a step{needed}",
        ]
        lines += [
            f"              {kind}: {sums['count']}, {_format_size(sums['bytes'])}, "
            f"the largest {_format_size(sums['largest_bytes'])}"
            for kind, sums in e.collectives.items()
        ]
    if e.bound is not None:
        lines.append(
            f"roofline      {_format_ms(e.roofline_s)} ms, bound by {e.bound} (compute {_format_ms(e.compute_s)}, "
            f"memory {_format_ms(e.memory_s)}, interconnect {_format_ms(e.interconnect_s)}); MFU {e.mfu:.1%} at best"
        )
    if e.left_whole:
        lines.append(f"note          {e.left_whole}")
    if e.unknown_loops:
        lines.append(f"note          {e.unknown_loops} loops of unknown length: counted as all labels need")
    return "\n".join([*lines, f"compiled in {e.compile_s:.1f} s"])


def format_table(estimates: Sequence[Estimate]) -> str:
    """Returns estimates as a Markdown table, one per row. Sizes are per device, in MiB."""
    rows = [TABLE_HEAD, ["---"] * len(TABLE_HEAD)]
    for estimate in estimates:
        rows.append(
            [
                estimate.topology,
                " x ".join(str(estimate.mesh[axis]) for axis in AXES),
                f"{estimate.rows:,}",
                _format_mib(estimate.param_bytes_per_device),
                _format_mib(estimate.optimizer_bytes_per_device),
                _format_mib(estimate.peak_bytes_per_device),
                {True: "yes", False: "no", None: "?"}[estimate.fits],
                _format_mib(estimate.collective_bytes_per_device),
                _format_mib(estimate.collective_bytes_needed),
                _format_ms(estimate.roofline_s),
                estimate.bound or "?",
                "?" if estimate.mfu is None else f"{estimate.mfu:.0%}",
            ]
        )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def describe_remedies(remedies: Sequence[tuple[Mapping[str, Any], Estimate]]) -> str:
    """Returns the changes from `search.find_remedies`, which make a step fit, as flags, one change per line."""
    if not remedies:
        return "nothing that was tried makes it fit (microbatches, remat, fsdp): take more devices or larger ones"
    lines = ["what makes it fit, tried:"]
    for changes, estimate in remedies:
        time = "" if estimate.roofline_s is None else f", roofline {_format_ms(estimate.roofline_s)} ms"
        peak = _format_size(estimate.peak_bytes_per_device)
        lines.append(f"  {' '.join(format_flags(changes))}: peak {peak}{time}")
    return "\n".join(lines)


def format_flags(changes: Mapping[str, Any]) -> list[str]:
    """Returns changes of settings by key as command-line flags."""
    return [f"--config.{key}={value}" for key, value in changes.items()]


def format_mesh(sizes: Mapping[str, int]) -> str:
    """Returns a mesh in words, such as "data 8, fsdp 1, tensor 1"."""
    return ", ".join(f"{axis} {size}" for axis, size in sizes.items())


def _format_mib(size: int | None) -> str:
    return "?" if size is None else f"{size / 2**20:,.1f}"


def _format_ms(seconds: float | None) -> str:
    return "?" if seconds is None else f"{1e3 * seconds:.3g}"


def _format_size(size: int | None) -> str:
    if size is None:
        return "?"
    return f"{size / 2**30:,.2f} GiB" if size >= 2**30 else f"{size / 2**20:,.2f} MiB"
