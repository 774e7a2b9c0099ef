"""What a train step takes of devices that need not be here: it is compiled for them, from shapes, and never run."""

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
from jaxft.models.pretrained_model import backbone_sizes, head_dropout
from jaxft.parallel.chips import Chip
from jaxft.parallel.mesh import AXES, check_rows, describe_unsharded, make_mesh
from jaxft.planning import hlo
from jaxft.tasks.registry import task_class
from jaxft.training import step
from jaxft.training.network import WORD_EMBEDDING, Network, make_abstract_batch, make_network
from jaxft.training.setup import describe_base_model, make_trainer, predict_bytes


@dataclasses.dataclass(frozen=True)
class Assumptions:
    """What neither settings nor devices tell."""

    labels: int = 9  # that a head of labels has, which the data would tell; CoNLL-2003's nine tags by default
    padding: float = 0.0  # fraction of slots without a token
    memory: int | None = None  # bytes of a device, in place of its chip's


@dataclasses.dataclass(frozen=True)
class Estimate:
    """The cost of one optimizer step. None stands for what cannot be known: of an unknown chip, or what doesn't fit."""

    topology: str
    device_kind: str
    devices: int
    mesh: dict[str, int]
    rows: int  # of a step, over all devices and microbatches
    length: int
    accumulate: int
    remat: str
    dtype: str
    fits: bool | None
    hbm_bytes_per_device: int | None
    parameters: int  # how many, on all devices together
    left_whole: str | None  # what the mesh doesn't divide
    param_bytes_per_device: int
    optimizer_bytes_per_device: int
    activation_bytes_per_device: (
        int  # what the forward pass keeps for the backward pass of a microbatch, by JAX; whole over tensor
    )
    temporary_bytes_per_device: int | None  # what the compiler plans for, activations and gradients among it
    peak_bytes_per_device: int | None  # arguments, results and temporaries
    model_flops_per_step: (
        float  # what the model needs, without recomputation: `Network.train_flops_per_token`
    )
    flops_per_step: float | None  # matrix products of the compiled program, on all devices together
    memory_bytes_per_device: int | None  # read and written in a step
    collectives: dict[str, dict[str, int]]  # by kind: count, bytes a device sends, and the largest single one
    collective_bytes_per_device: int | None
    collective_bytes_needed: int  # by the algorithm; see `needed_bytes`
    compute_s: float | None  # each with nothing else in its way
    memory_s: float | None
    interconnect_s: float | None
    roofline_s: float | None  # the longest of the three: no step is shorter
    bound: str | None  # which of them it is
    mfu: float | None  # at that time: FLOPs of the model for tokens that are no padding, of the chips' peak
    unknown_loops: int  # whose trips the program doesn't tell: counted as a microbatch's loss needs
    compile_s: float


def estimate(
    config: Settings,
    devices: Sequence[jax.Device],
    *,
    topology: str,
    chip: Chip | None,
    assumptions: Assumptions,
) -> tuple[Estimate, str | None]:
    """Compiles the train step of `config` for `devices`; gives its cost and the compiled program's text.

    The text is None where the compiler found that the memory doesn't suffice. No data, tokenizer or weights are
    read. chip: what times and memory are reckoned by.

    Raises `UserError` for settings, a model or a mesh that cannot be.
    """
    rows, length, accumulate = config.batch.rows, config.data.max_length, config.batch.accumulate
    mesh = make_mesh(config, devices)
    check_rows(mesh, rows // accumulate, "config.batch.rows / accumulate")
    hf_config = describe_base_model(config)
    sizes = backbone_sizes(config, hf_config, devices[0].platform)
    net = make_network(_task(config, hf_config, assumptions.labels), sizes, mesh)
    # As without tensor, for of what is split over that JAX only knows all devices' together.
    whole = make_network(net.task, sizes, Mesh(mesh.devices[:, :, :1], AXES))
    trainer = make_trainer(net, config, total=1000, warmup=0)
    memory = assumptions.memory or (chip and chip.memory)
    state = trainer.abstract
    known = {
        "topology": topology,
        "device_kind": devices[0].device_kind,
        "devices": len(devices),
        "mesh": dict(mesh.shape),
        "rows": rows,
        "length": length,
        "accumulate": accumulate,
        "remat": config.model.remat,
        "dtype": sizes["dtype"].name,
        "hbm_bytes_per_device": memory,
        "parameters": net.parameter_count,
        "left_whole": describe_unsharded(net.abstract, mesh, sizes["num_heads"]),
        "param_bytes_per_device": _shard_bytes((state.trainable, state.frozen)),
        "optimizer_bytes_per_device": _shard_bytes(state.opt_state),
        "activation_bytes_per_device": _activation_bytes(whole, state, rows // accumulate, length),
        "model_flops_per_step": net.train_flops_per_token(length) * rows * length,
        "collective_bytes_needed": needed_bytes(
            net,
            state,
            sizes["dtype"].itemsize,
            jnp.dtype(config.optim.gradients).itemsize,
            rows * length,
            accumulate,
        ),
    }
    began = time.perf_counter()
    try:
        compiled = trainer.compile(Shape(rows, length))
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error) and "out of memory" not in str(error):
            raise
        unknown = {field.name: None for field in dataclasses.fields(Estimate) if field.name not in known}
        unknown |= {
            "fits": False,
            "peak_bytes_per_device": _used(str(error)),
            "collectives": {},
            "unknown_loops": 0,
        }
        return Estimate(**known | unknown | {"compile_s": time.perf_counter() - began}), None
    compile_s = time.perf_counter() - began
    text = compiled.as_text()
    # The loss over a vocabulary runs over as many chunks of a device's positions as have labels: all, in text.
    positions = rows // accumulate * length // mesh.size
    chunks = -(-positions // chunked.chunk_size(net.mesh)) if net.task.predicts_tokens else 1
    program = hlo.Program(text, unknown_trips=chunks)
    peak = predict_bytes({"train": compiled})
    collectives = _by_kind(program.collectives())
    sent = sum(kind["bytes"] for kind in collectives.values())
    flops, traffic = program.flops(), program.traffic()
    measured = {
        "fits": None if memory is None else peak <= memory,
        "temporary_bytes_per_device": compiled.memory_analysis().temp_size_in_bytes,
        "peak_bytes_per_device": peak,
        "flops_per_step": flops * len(devices),
        "memory_bytes_per_device": traffic,
        "collectives": collectives,
        "collective_bytes_per_device": sent,
        "unknown_loops": program.unknown_loops,
        "compile_s": compile_s,
    }
    times = _roofline(chip, flops, traffic, sent)
    if chip:
        useful = known["model_flops_per_step"] * (1 - assumptions.padding)
        times["mfu"] = useful / (times["roofline_s"] * chip.flops * len(devices))
    return Estimate(**known | measured | times), text


def _task(config: Settings, hf_config: dict[str, Any], count: int):
    """The task with `count` labels, those that the settings name among them."""
    named = [label for label, _ in config.loss.class_weights]
    labels = named + [f"label {i}" for i in range(count - len(named))]
    if config.tasks:
        labels = [f"{name}/{label}" for name, _ in config.tasks for label in labels]
    rate = head_dropout(config, hf_config)
    return task_class(config)(labels, head_dropout=rate, config=config)


def _shard_bytes(tree: Any) -> int:
    """Bytes that one device holds of abstract arrays with shardings."""
    leaves = jax.tree.leaves(tree)
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in leaves)


def _activation_bytes(net: Network, state: step.TrainState, rows: int, length: int) -> int:
    """Bytes a device of what the backward pass of `rows` reads besides parameters; only rows are split."""

    def pullback(trainable, frozen, batch):
        seed = DropoutSeed(jnp.uint32(0), jnp.int32(0))
        loss = functools.partial(_loss, net, frozen, batch, seed)
        return jax.vjp(loss, trainable)[1]

    batch = make_abstract_batch(net, Shape(rows, length))
    kept = jax.tree.leaves(jax.eval_shape(pullback, state.trainable, state.frozen, batch))
    own = {leaf.shape for leaf in jax.tree.leaves((net.abstract, state.trainable, state.frozen))}
    total = sum(x.size * x.dtype.itemsize for x in kept if x.shape not in own)
    return total // (net.mesh.shape["data"] * net.mesh.shape["fsdp"])


def _loss(net, frozen, batch, seed, trainable):
    return net.task.loss(
        step.merge_model(net.graphdef, trainable | frozen), step.add_step_scales(batch), seed
    )[0]


def needed_bytes(
    net: Network, state: step.TrainState, itemsize: int, gradients: int, slots: int, accumulate: int
) -> int:
    """Bytes that a device must send in a step of data parallelism, FSDP and tensor parallelism.

    A parameter split over fsdp is gathered for the forward and again for the backward pass of each microbatch, in
    the dtype of the computation (of `itemsize` bytes), and its gradient reduce-scattered in it; where there is a data
    axis too the shard of the gradient is all-reduced over it, in the gradients' dtype (`gradients` bytes a number of
    a matrix, 4 of a vector), and so is the gradient of a parameter that each device holds whole. Of a table of
    embeddings, instead, what was looked up (and its gradient) may change from columns to rows, in float32. Source:
    Rajbhandari et al. 2020 (ZeRO), section 7.

    Over tensor, what comes out of attention and of the MLP is all-reduced in the forward pass, and the gradient of
    what goes into them in the backward pass: Shoeybi et al. 2019 (Megatron-LM), section 3. So is what was looked up
    in a vocabulary that is split by words. The loss over a vocabulary has the whole table, and a part of the positions.
    """
    data, fsdp, tensor = (net.mesh.shape[axis] for axis in AXES)
    here = slots // (data * fsdp)  # that a device has the activations of

    def reduced(size: float, ways: int) -> float:
        return 2 * size * (ways - 1) / ways

    total = 0.0
    for name, leaf in net.abstract.items():
        over = [axis for axis in leaf.sharding.spec if axis]
        split, cut = "fsdp" in over, "tensor" in over
        size = leaf.size / (tensor if cut else 1)
        trained = name in state.trainable
        width = gradients if name.endswith(step.MATRICES) else 4
        is_output = net.task.predicts_tokens and name == WORD_EMBEDDING
        columns = leaf.shape[-1] / (fsdp if split else 1)
        if is_output:
            ways = (fsdp if split else 1) * (tensor if cut else 1)
            total += leaf.size * itemsize * accumulate * (2 + trained) * (ways - 1) / ways
            total += here * leaf.shape[-1] * itemsize * (tensor - 1) / tensor  # a part's gradients, to all
        elif split and name.endswith("embedding"):
            looked_up = here * leaf.shape[-1] * (4 + 4 * trained)
            whole = size * (itemsize + width * trained) * accumulate
            total += min(looked_up, whole) * (fsdp - 1) / fsdp
        elif split:
            total += size * itemsize * accumulate * (2 + trained) * (fsdp - 1) / fsdp
        if cut and name.endswith("embedding"):
            total += reduced(slots // data * columns * 4, tensor)
        elif cut and re.search(r"(query|up|output|down)/kernel$", name):  # key and value go with query
            width_of_x = leaf.shape[-2 if re.search(r"(query|up)/", name) else -1]
            total += leaf.shape[0] * reduced(here * width_of_x * itemsize, tensor)
        if trained:
            ways = data * (1 if split else fsdp) * (tensor if is_output and not cut else 1)
            total += reduced(size * width / (fsdp if split else 1), ways)
    return round(total)


def _by_kind(collectives: list[hlo.Collective]) -> dict[str, dict[str, int]]:
    found = {}
    for kind in hlo.KINDS:
        if some := [one for one in collectives if one.kind == kind]:
            found[kind] = {
                "count": sum(one.count for one in some),
                "bytes": round(sum(one.sent for one in some)),
                "largest_bytes": max(one.size for one in some),
            }
    return found


def _roofline(chip: Chip | None, flops: float, traffic: float, sent: float) -> dict[str, Any]:
    """Times of compute, memory and interconnect at their peaks, the longest and its name (Williams et al. 2009)."""
    if chip is None:
        return dict.fromkeys(("compute_s", "memory_s", "interconnect_s", "roofline_s", "bound", "mfu"))
    times = {
        "compute": flops / chip.flops,
        "memory": traffic / chip.bandwidth,
        "interconnect": sent / chip.interconnect,
    }
    bound = max(times, key=times.get)
    return {f"{name}_s": value for name, value in times.items()} | {
        "roofline_s": times[bound],
        "bound": bound,
    }


def _used(message: str) -> int | None:
    """Bytes that the compiler wanted, from what it says when they aren't there.

    "Used 17.04G of 15.75G hbm", or "required for HLO temporaries (17.70G) exceeds available HBM (15.75G)".
    """
    found = re.search(r"(?:Used |temporaries \()([\d.]+)([KMG])\b", message)
    return round(float(found[1]) * 2 ** {"K": 10, "M": 20, "G": 30}[found[2]]) if found else None
