"""Estimates the cost of a train step on devices that need not exist: compiles it from shapes but never runs it."""

import dataclasses
import functools
import math
import re
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxft.config.sections import Settings
from jaxft.data.batching.batch import Shape
from jaxft.layers.dropout import DropoutSeed
from jaxft.losses import chunked
from jaxft.parallel.chips import Chip
from jaxft.parallel.memory import shard_bytes
from jaxft.parallel.mesh import AXES, check_rows, describe_unsharded, make_mesh
from jaxft.planning import hlo
from jaxft.planning.required_collectives import required_collective_bytes
from jaxft.tasks.base import Arrays
from jaxft.training import step
from jaxft.training.batch_rows import choose_microbatches
from jaxft.training.network import Network, make_abstract_batch
from jaxft.training.prepare import describe_base_model, prepare_network, prepare_task
from jaxft.training.train_state import Parameters, TrainState
from jaxft.training.trainer import make_trainer, predict_bytes


@dataclasses.dataclass(frozen=True)
class Assumptions:
    """Numbers that follow neither from settings nor from devices."""

    labels: int = 9  # the labels of a head, which training takes from its data; CoNLL-2003 has nine tags
    padding: float = 0.0  # the fraction of slots without a token
    memory: int | None = None  # the bytes of a device's memory, instead of its chip's


@dataclasses.dataclass(frozen=True)
class Estimate:
    """The cost of one optimizer step.

    None stands for unknown values: times on an unknown chip, or the numbers of a program that the compiler gave up for
    lack of memory.
    """

    topology: str
    device_kind: str
    devices: int
    mesh: dict[str, int]
    rows: int  # the rows of a step, over all devices and microbatches
    length: int
    accumulate: int
    remat: str
    dtype: str
    fits: bool | None
    hbm_bytes_per_device: int | None
    parameters: int  # the number of parameters, on all devices together
    left_whole: str | None  # a sentence about the dimensions that the mesh does not divide
    param_bytes_per_device: int
    optimizer_bytes_per_device: int
    # JAX's count of what the forward pass of a microbatch keeps for the backward pass, as if tensor split nothing.
    activation_bytes_per_device: int
    temporary_bytes_per_device: int | None  # the compiler's plan; includes activations and gradients
    peak_bytes_per_device: int | None  # arguments, results and temporaries
    model_flops_per_step: float  # the model's need, without recomputation: `Network.train_flops_per_token`
    flops_per_step: float | None  # matrix products of the compiled program, on all devices together
    memory_bytes_per_device: int | None  # memory traffic: read and written in a step
    collectives: dict[
        str, dict[str, int]
    ]  # by kind: count, bytes that a device sends, and bytes of the largest collective
    collective_bytes_per_device: int | None
    collective_bytes_needed: int  # the algorithm's need: `required_collective_bytes`
    compute_s: float | None  # this and the next two times as if nothing else took time
    memory_s: float | None
    interconnect_s: float | None
    roofline_s: float | None  # the longest of the three times; no step is shorter
    bound: str | None  # the name of the longest of the three
    mfu: float | None  # in the roofline time: the model's FLOPs for tokens without padding / the chips' peak
    unknown_loops: (
        int  # loops whose trips are not in the program; counted as often as a microbatch's loss needs
    )
    compile_s: float


def estimate_step(
    config: Settings,
    devices: Sequence[jax.Device],
    *,
    topology: str,
    chip: Chip | None,
    assumptions: Assumptions,
) -> tuple[Estimate, str | None]:
    """Compiles the train step of `config` for `devices`, and estimates its cost.

    It reads no data, tokenizer or weights.

    Args:
        config: a run's settings.
        devices: the devices to compile for; they need not exist.
        topology: the name of the devices.
        chip: the chip that determines times and memory; None for no times.
        assumptions: numbers that follow neither from settings nor from devices.

    Returns:
        The estimate, and the text of the compiled program, or None if the compiler ran out of device memory.

    Raises:
        UserError: the settings, the model or the mesh are impossible.
    """
    rows = config.batch.rows
    assert rows is not None  # `plans` asks for them
    mesh = make_mesh(config, devices)
    check_rows(mesh, rows // config.batch.accumulate, "config.batch.rows / accumulate")
    hf_config = describe_base_model(config)
    task = prepare_task(config, hf_config, _make_labels(config, assumptions.labels))
    length = task.batch_spec.row_length or config.data.max_length
    net = prepare_network(task, config, hf_config, mesh)
    # Without the axis tensor, because JAX only knows the total size over all devices.
    unsplit_net = prepare_network(task, config, hf_config, Mesh(mesh.devices[:, :, :1], AXES))
    model_config, runtime = net.model_config, net.runtime
    accumulate = choose_microbatches(config, net, rows, length)
    trainer = make_trainer(net, config, total=1000, warmup=0, microbatches=accumulate)
    memory = assumptions.memory or (None if chip is None else chip.memory)
    state = trainer.abstract
    known: dict[str, Any] = {
        "topology": topology,
        "device_kind": devices[0].device_kind,
        "devices": len(devices),
        "mesh": dict(mesh.shape),
        "rows": rows,
        "length": length,
        "accumulate": accumulate,
        "remat": config.model.remat,
        "dtype": runtime.dtype.name,
        "hbm_bytes_per_device": memory,
        "parameters": net.parameter_count,
        "left_whole": describe_unsharded(net.abstract, net.axes, mesh, model_config.num_heads),
        "param_bytes_per_device": shard_bytes((state.trainable, state.frozen, state.model_state)),
        "optimizer_bytes_per_device": shard_bytes(state.opt_state),
        "activation_bytes_per_device": _activation_bytes(unsplit_net, state, rows // accumulate, length),
        "model_flops_per_step": net.train_flops_per_token(length, frozen=state.frozen) * rows * length,
        "collective_bytes_needed": required_collective_bytes(
            net,
            state,
            compute_itemsize=runtime.dtype.itemsize,
            gradient_itemsize=jnp.dtype(config.optim.gradients).itemsize,
            slots=rows * model_config.count_positions(length),
            accumulate=accumulate,
        ),
    }
    began = time.perf_counter()
    try:
        shape = Shape(rows, length)
        compiled = trainer.lower(shape).compile(trainer.find_options(shape))
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error) and "out of memory" not in str(error):
            raise
        unknown: dict[str, Any] = {
            field.name: None for field in dataclasses.fields(Estimate) if field.name not in known
        }
        unknown |= {
            "fits": False,
            "peak_bytes_per_device": _bytes_in_error(str(error)),
            "collectives": {},
            "unknown_loops": 0,
            "compile_s": time.perf_counter() - began,
        }
        return Estimate(**known | unknown), None
    compile_s = time.perf_counter() - began
    text = compiled.as_text() or ""
    program = hlo.Program(text, unknown_trips=_loss_chunks(net, rows // accumulate, length))
    peak = predict_bytes({"train": compiled})
    collectives = _sum_by_kind(program.collectives())
    sent = sum(kind["bytes"] for kind in collectives.values())
    flops, traffic, memory_plan = program.flops(), program.traffic(), compiled.memory_analysis()
    measured: dict[str, Any] = {
        "fits": None if memory is None else peak <= memory,
        "temporary_bytes_per_device": None if memory_plan is None else memory_plan.temp_size_in_bytes,
        "peak_bytes_per_device": peak,
        "flops_per_step": flops * len(devices),
        "memory_bytes_per_device": traffic,
        "collectives": collectives,
        "collective_bytes_per_device": sent,
        "unknown_loops": program.unknown_loops,
        "compile_s": compile_s,
    }
    times = _roofline(chip, flops, traffic, sent)
    if chip is not None:
        useful_flops = known["model_flops_per_step"] * (1 - assumptions.padding)
        times["mfu"] = useful_flops / (times["roofline_s"] * chip.flops * len(devices))
    return Estimate(**known | measured | times), text


def _make_labels(config: Settings, count: int) -> list[str]:
    """Makes `count` labels, including the labels that the settings name."""
    entries = [dict(entry).get("loss.class_weights", ()) for _, entry in getattr(config, "tasks", ())]
    weights = [getattr(config.loss, "class_weights", ()), *entries]
    named = list(dict.fromkeys(label for pairs in weights for label, _ in pairs))
    labels = named + [f"label {i}" for i in range(count - len(named))]
    if names := config.task_names():
        labels = [f"{name}/{label}" for name in names for label in labels]
    return labels


def _activation_bytes(net: Network, state: TrainState, rows: int, length: int) -> int:
    """Returns the bytes that a device keeps for the backward pass, without parameters, if only rows are split."""

    def pullback(trainable: Parameters, frozen: Parameters, batch: step.Batch) -> Any:
        seed = DropoutSeed(jnp.uint32(0), jnp.int32(0))
        loss = functools.partial(_loss, net, frozen, batch, seed)
        return jax.vjp(loss, trainable)[1]

    batch = make_abstract_batch(net, Shape(rows, length))
    kept = jax.tree.leaves(jax.eval_shape(pullback, state.trainable, state.frozen | state.model_state, batch))
    parameter_shapes = {leaf.shape for leaf in jax.tree.leaves((net.abstract, state.trainable, state.frozen))}
    total = sum(x.size * x.dtype.itemsize for x in kept if x.shape not in parameter_shapes)
    return total // (net.mesh.shape["data"] * net.mesh.shape["fsdp"])


def _loss(net: Network, frozen: Arrays, batch: Arrays, seed: DropoutSeed, trainable: Arrays) -> jax.Array:
    """Returns the sum of the task's loss over a batch."""
    model = step.merge_model(net.graphdef, trainable | frozen)
    return net.task.loss(model, step.add_step_scales(batch), seed)[0]


def _loss_chunks(net: Network, rows: int, length: int) -> int:
    """Returns the number of chunks of a microbatch's loss over a vocabulary; 1 for another loss.

    The loss runs over the chunks of a device's positions that have labels. In text all positions have labels, or those
    that are masked.
    """
    if not net.task.predicts_tokens:
        return 1
    positions = rows * length // net.mesh.size * net.task.batch_spec.labelled_share
    return math.ceil(positions / chunked.choose_chunk_size(net.mesh))


def _sum_by_kind(collectives: list[hlo.Collective]) -> dict[str, dict[str, int]]:
    """Returns for each kind of collective its count, the bytes that a device sends, and the bytes of the largest."""
    sums = {}
    for kind in hlo.KINDS:
        if of_kind := [collective for collective in collectives if collective.kind == kind]:
            sums[kind] = {
                "count": sum(collective.runs for collective in of_kind),
                "bytes": round(sum(collective.sent for collective in of_kind)),
                "largest_bytes": max(collective.size for collective in of_kind),
            }
    return sums


def _roofline(chip: Chip | None, flops: float, traffic: float, sent: float) -> dict[str, Any]:
    """Returns the times of compute, memory and interconnect at their peaks, and the longest time with its name.

    Source: Williams et al. 2009, the roofline model.
    """
    if chip is None:
        return dict.fromkeys(("compute_s", "memory_s", "interconnect_s", "roofline_s", "bound", "mfu"))
    times = {
        "compute": flops / chip.flops,
        "memory": traffic / chip.bandwidth,
        "interconnect": sent / chip.interconnect,
    }
    bound = max(times, key=lambda name: times[name])
    return {f"{name}_s": value for name, value in times.items()} | {
        "roofline_s": times[bound],
        "bound": bound,
    }


def _bytes_in_error(message: str) -> int | None:
    """Returns the bytes that the compiler needed, from its error for lack of memory; None if they are not there.

    The error says "Used 17.04G of 15.75G hbm", or "required for HLO temporaries (17.70G) exceeds available HBM
    (15.75G)".
    """
    match = re.search(r"(?:Used |temporaries \()([\d.]+)([KMG])\b", message)
    return round(float(match[1]) * 2 ** {"K": 10, "M": 20, "G": 30}[match[2]]) if match else None
