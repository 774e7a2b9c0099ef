"""Turns settings, task and checkpoint into what a run computes with: state, shardings, compiled steps."""

import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from jaxft import optim, paths, sharding, step
from jaxft.data.packing import Shape
from jaxft.errors import UserError
from jaxft.models import attention
from jaxft.pretrained import bert, gpt2, hub, mapping, scratch
from jaxft.tasks import TASKS, Task

# What a checkpoint means, `sizes` and `TABLE`, by the `model_type` of its config.json.
ARCHITECTURES = {"bert": bert, "gpt2": gpt2}
NEW = "new:"  # the address of a model that has no checkpoint: "new:gpt2"
WORDS = "body/embeddings/word/embedding"

KERNEL_OF = {"tpu": "splash", "gpu": "cudnn"}  # of attention, by platform
LONG_ROW = 512  # the length from which attention's scores, which grow with its square, are worth a kernel


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A pretrained checkpoint's folder, its config.json and its tokenizer.

    Of a new model there is no folder. Where tokens were added the config.json counts them, the weights don't.
    """

    address: str
    folder: Path | None
    hf_config: dict[str, Any]
    tokenizer: Any


def open_checkpoint(config: ConfigDict, texts: Callable[[], Iterable[str]]) -> Checkpoint:
    """The checkpoint of `config.model`, without its weights, and with `config.data.added_tokens`.

    texts: gives the training text, for the tokenizer of a new model.
    """
    address = config.model.checkpoint
    if address.startswith(NEW):
        checkpoint = _new_checkpoint(config, texts)
    else:
        folder = hub.resolve(address, config.model.revision)
        tokenizer = hub.load_tokenizer(folder, of_words=TASKS[config.task].of_words)
        checkpoint = Checkpoint(address, folder, hub.read_config(folder), tokenizer)
    vocabulary = check_model(config, checkpoint.hf_config)["vocab_size"]
    if len(checkpoint.tokenizer) > vocabulary:
        raise UserError(
            f"{address}: its tokenizer has {len(checkpoint.tokenizer)} tokens, but the model only {vocabulary}; "
            "its tokenizer and config.json do not belong together"
        )
    if config.data.added_tokens and checkpoint.tokenizer.add_tokens(list(config.data.added_tokens)):
        checkpoint.hf_config["vocab_size"] = max(vocabulary, len(checkpoint.tokenizer))
    if checkpoint.tokenizer.pad_token_id is None:
        # GPT-2's has none. Padding is never seen, so any token serves, and none has to be added.
        checkpoint.tokenizer.pad_token = checkpoint.tokenizer.eos_token
    if checkpoint.tokenizer.pad_token_id is None:
        raise UserError(
            f"{address}: its tokenizer has no padding token; set pad_token in tokenizer_config.json"
        )
    return checkpoint


def check_model(config: ConfigDict, hf_config: Mapping[str, Any]) -> dict[str, Any]:
    """The sizes that a config.json means. Raises `UserError` where it doesn't go with the task or its rows."""
    address, supported = config.model.checkpoint, TASKS[config.task].architectures
    try:
        sizes = architecture(hf_config).sizes(hf_config)
    except UserError as error:
        raise UserError(f"checkpoint {address!r}: {error}") from None
    if (found := hf_config["model_type"]) not in supported:
        raise UserError(
            f"checkpoint {address!r}: model_type is {found!r}, but config.task={config.task!r} is for "
            f"{', '.join(supported)}; choose another checkpoint or task"
        )
    if config.data.max_length > (longest := sizes["max_positions"]):
        raise UserError(
            f"config.data.max_length={config.data.max_length}, but {address} has {longest} positions; "
            f"set it to {longest} or less, longer sentences are cut into windows and scored whole"
        )
    return sizes


def describe_model(config: ConfigDict) -> dict[str, Any]:
    """The config.json of the model that `config` trains, without its weights, its tokenizer or its data.

    Of a new model only as many words can be told as its tokenizer has at most. A "new:bert" is told too, though
    none can be trained yet: BertConfig's defaults, which are BERT-base, under `config.model.sizes`.
    """
    model = config.model
    if model.checkpoint.startswith(NEW):
        kind = model.checkpoint.removeprefix(NEW)
        hf_config = scratch.new_config(kind, dict(model.sizes), max_length=config.data.max_length)
        if kind == "gpt2":
            hf_config["vocab_size"] = model.vocab_size
    else:
        hf_config = dict(hub.read_config(hub.resolve(model.checkpoint, model.revision, weights=False)))
    sizes = check_model(config, hf_config)
    return hf_config | {"vocab_size": sizes["vocab_size"] + len(config.data.added_tokens)}


def _new_checkpoint(config: ConfigDict, texts: Callable[[], Iterable[str]]) -> Checkpoint:
    model, length = config.model, config.data.max_length
    if model.checkpoint != f"{NEW}gpt2" or model.init != "scratch":
        raise UserError(
            f"config.model.checkpoint={model.checkpoint!r}, config.model.init={model.init!r}: a new model is "
            f"'{NEW}gpt2' with init 'scratch'"
        )
    tokenizer = scratch.train_tokenizer(texts(), model.vocab_size, length)
    hf_config = scratch.new_config("gpt2", dict(model.sizes), max_length=length) | {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    return Checkpoint(model.checkpoint, None, hf_config, tokenizer)


def architecture(hf_config: Mapping[str, Any]) -> ModuleType:
    """The module of `ARCHITECTURES` for a config.json. Raises `UserError` for a model_type that isn't there."""
    found = hf_config.get("model_type")
    if found not in ARCHITECTURES:
        raise UserError(
            f"config.json: model_type is {found!r}, but only {sorted(ARCHITECTURES)} are supported; choose "
            "another checkpoint (or add the field where an old config.json lacks it)"
        )
    return ARCHITECTURES[found]


def body_sizes(
    config: ConfigDict, hf_config: Mapping[str, Any], platform: str | None = None
) -> dict[str, Any]:
    """What `network` makes the body from: the checkpoint's sizes under the run's settings, for `platform`.

    platform: "cpu", "gpu" or "tpu", default this machine's. The result has the body's keyword arguments, its
    "architecture", and under "attention" the name of its implementation.
    """
    platform = platform or jax.default_backend()
    model, on_cpu = config.model, platform == "cpu"
    sizes = architecture(hf_config).sizes(hf_config)
    if model.dropout is not None:
        sizes |= {name: model.dropout for name in sizes if name.endswith("_dropout")}
    dtype = model.dtype if model.dtype != "auto" else ("float32" if on_cpu else "bfloat16")
    unroll = on_cpu if model.unroll == "auto" else model.unroll == "yes"
    sizes |= {"dtype": jnp.dtype(dtype), "remat": model.remat, "unroll": unroll}
    architecture_of = {"architecture": hf_config["model_type"]}
    return sizes | architecture_of | {"attention": _attention(config, sizes, platform)}


def _attention(config: ConfigDict, sizes: Mapping[str, Any], platform: str) -> str:
    """The implementation of attention that `config.model.attention` means, in training and evaluation.

    "auto" is the platform's kernel for rows of `LONG_ROW` and more that it can compute, and else dense. Raises
    `UserError` for a kernel that is asked for and cannot be had.
    """
    asked, length = config.model.attention, config.data.max_length
    auto = asked == "auto"
    name = KERNEL_OF.get(platform, "dense") if auto else asked
    if name == "dense" or (auto and length < LONG_ROW):
        return "dense"
    head_width = sizes["hidden_size"] // sizes["num_heads"]
    obstacle = attention.obstacle(name, length=length, head_width=head_width, dtype=sizes["dtype"])
    if KERNEL_OF.get(platform) != name or (name == "cudnn" and not _gpu_has_flash_attention()):
        obstacle = f"cannot run on this {platform}"
    elif rate := sizes["attention_dropout"]:
        obstacle = f"has no dropout of attention weights, here {rate}; set config.model.dropout=0.0"
    if obstacle and not auto:
        raise UserError(f"config.model.attention={name!r} {obstacle}; 'dense' computes the same")
    return "dense" if obstacle else name


def _gpu_has_flash_attention() -> bool:
    """Whether this machine's GPU is NVIDIA's, of compute capability 8.0 (Ampere) or later; AMD's has a name there."""
    capability = getattr(jax.devices()[0], "compute_capability", "")
    return bool(re.fullmatch(r"\d+\.\d+", capability)) and float(capability) >= 8.0


def head_dropout(config: ConfigDict, hf_config: Mapping[str, Any]) -> float:
    """The dropout rate before a task's head."""
    if config.model.dropout is not None:
        return config.model.dropout
    return architecture(hf_config).classifier_dropout(hf_config)


@dataclasses.dataclass(frozen=True)
class Network:
    """A task's model in the abstract: structure, and the shape and place of every parameter by path."""

    task: Task
    graphdef: nnx.GraphDef  # for batches of which nothing is known
    graphdef_for: Callable[[Shape], nnx.GraphDef]  # for those of a shape
    mesh: Mesh
    abstract: dict[str, jax.ShapeDtypeStruct]  # with shardings
    new_parameters: Any  # uint32 seed -> parameters by path

    @functools.cached_property
    def count(self) -> int:
        """Number of parameters."""
        return sum(leaf.size for leaf in self.abstract.values())

    def train_flops_per_token(self, length: int) -> float:
        """Model FLOPs of forward and backward for a token in a row of `length`, without recomputation.

        Six per weight of a matrix product, the output's tied embedding being one, and 12 * layers * length *
        width for attention scores and their weighted sum. Source: Chowdhery et al. 2022 (PaLM), appendix B.
        """
        kernels = {name: leaf for name, leaf in self.abstract.items() if name.endswith("kernel")}
        dense = 6 * sum(leaf.size for leaf in kernels.values())
        if self.task.predicts_words:
            dense += 6 * self.abstract[WORDS].size
        query = next(leaf for name, leaf in kernels.items() if name.endswith("query/kernel"))
        return dense + 12 * query.shape[0] * length * query.shape[-1]


def network(task: Task, sizes: dict[str, Any], mesh: Mesh) -> Network:
    """The task's model over a body of `sizes`, as `body_sizes` gives them, laid over `mesh`. Computes nothing."""
    sizes = dict(sizes)
    attend = functools.partial(sharding.attention_function, sizes.pop("attention", "dense"), mesh)
    sizes["attention_function"] = attend()
    sizes["activations"] = NamedSharding(mesh, sharding.BATCH) if mesh.size > 1 else None

    def parameters(seed: jax.Array) -> dict[str, jax.Array]:
        model = task.build_model(sizes, nnx.Rngs(params=jax.random.key(seed)))
        return paths.flatten(nnx.to_pure_dict(nnx.state(model)))

    @functools.cache
    def graphdef(block: int, every: int) -> nnx.GraphDef:
        known = sizes | {"attention_function": attend(block=block, every=every)}
        return nnx.split(nnx.eval_shape(lambda: task.build_model(known, nnx.Rngs(params=0))))[0]

    shapes = jax.eval_shape(parameters, jnp.uint32(0))
    shardings = sharding.of_parameters(shapes, mesh)
    abstract = {
        name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=shardings[name])
        for name, leaf in shapes.items()
    }
    return Network(task, graphdef(0, 0), lambda shape: graphdef(*shape[2:]), mesh, abstract, parameters)


def initial_parameters(net: Network, config: ConfigDict, checkpoint: Checkpoint) -> tuple[dict, str]:
    """Parameters in their shardings, from the checkpoint or new, and a line that says which are which."""
    loaded: dict[str, np.ndarray] = {}
    said = f"all {len(net.abstract)} parameters newly initialized (config.model.init=scratch)"
    if config.model.init == "pretrained":
        folder, abstract = checkpoint.folder, dict(net.abstract)
        known = architecture(checkpoint.hf_config).sizes(hub.read_config(folder))["vocab_size"]
        added = abstract[WORDS].shape[0] - known
        abstract[WORDS] = jax.ShapeDtypeStruct((known, abstract[WORDS].shape[1]), abstract[WORDS].dtype)
        tensors = hub.open_tensors(folder)
        # Checkpoints of other tasks have no pooler, and no task's head is another's.
        new = ("head/",) if any("pooler." in name for name in tensors) else ("head/", "body/pooler/")
        loaded, report = mapping.load(
            architecture(checkpoint.hf_config).TABLE,
            tensors,
            abstract,
            new=[name for name in abstract if name.startswith(new)],
            source=str(folder),
        )
        said = str(report)
        if added:
            mean = loaded[WORDS].mean(axis=0, dtype=np.float64, keepdims=True).astype(loaded[WORDS].dtype)
            loaded[WORDS] = np.concatenate([loaded[WORDS], np.repeat(mean, added, axis=0)])
            said += f"; {added} new words (config.data.added_tokens) begin as the mean of the other {known:,}"
    fresh = [name for name in net.abstract if name not in loaded]
    # jit removes what is computed for parameters that are not asked for.
    new = jax.jit(
        lambda seed: {name: net.new_parameters(seed)[name] for name in fresh},
        out_shardings={name: net.abstract[name].sharding for name in fresh},
    )(np.uint32(config.seed))
    placed = {name: sharding.put(value, net.abstract[name].sharding) for name, value in loaded.items()}
    return {name: new[name] if name in new else placed[name] for name in net.abstract}, said


@dataclasses.dataclass(frozen=True)
class Trainer:
    """The functions of a training run and the shapes of what they work on."""

    net: Network
    schedule: optax.Schedule
    optimizer: optax.GradientTransformation
    abstract: step.TrainState  # with shardings
    train_step: Any  # jitted: (state, batch, seed) -> (state, metrics); the state is donated

    def compile(self, shape: Shape) -> Any:
        """`train_step` compiled for batches of `shape`."""
        seed = jax.ShapeDtypeStruct((), jnp.uint32, sharding=self.abstract.step.sharding)
        batch = abstract_batch(self.net, shape)
        graphdef = self.net.graphdef_for(shape)
        return self.train_step.lower(self.abstract, batch, seed, graphdef=graphdef).compile()

    def new_state(self, parameters: dict[str, jax.Array]) -> step.TrainState:
        """The state at step 0."""
        trainable = {name: parameters[name] for name in self.abstract.trainable}
        frozen = {name: parameters[name] for name in self.abstract.frozen}
        shardings = jax.tree.map(lambda leaf: leaf.sharding, self.abstract.opt_state)
        opt_state = jax.jit(self.optimizer.init, out_shardings=shardings)(trainable)
        start = sharding.put(np.int32(0), self.abstract.step.sharding)
        return step.TrainState(start, trainable, frozen, opt_state)


def trainer(net: Network, config: ConfigDict, *, total: int, warmup: int) -> Trainer:
    """The optimizer and train step of `config` for a run of `total` steps."""
    names = list(net.abstract)
    trainable, frozen = optim.split_frozen(config, names)
    schedule = optim.make_schedule(config, total=total, warmup=warmup)
    optimizer = optim.make_optimizer(config, schedule, trainable)
    whole = NamedSharding(net.mesh, PartitionSpec())
    parameters = {name: net.abstract[name] for name in trainable}
    opt_state = jax.eval_shape(optimizer.init, parameters)
    opt_state = jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        opt_state,
        sharding.of_state(opt_state, net.mesh),
    )
    abstract = step.TrainState(
        jax.ShapeDtypeStruct((), jnp.int32, sharding=whole),
        parameters,
        {name: net.abstract[name] for name in frozen},
        opt_state,
    )
    function = functools.partial(
        step.train_step,
        task=net.task,
        graphdef=net.graphdef,
        optimizer=optimizer,
        schedule=schedule,
        clip=config.optim.clip,
        accumulate=config.batch.accumulate,
        microbatches=NamedSharding(net.mesh, PartitionSpec(None, *sharding.BATCH)),
        places={name: leaf.sharding for name, leaf in parameters.items()},
        gradient_dtype=jnp.dtype(config.optim.gradients),
    )
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    train_step = jax.jit(
        function, donate_argnums=0, out_shardings=(shardings, whole), static_argnames="graphdef"
    )
    return Trainer(net, schedule, optimizer, abstract, train_step)


def abstract_batch(net: Network, shape: Shape) -> dict[str, jax.ShapeDtypeStruct]:
    """A batch of `shape`, its rows split over the mesh."""
    place = NamedSharding(net.mesh, sharding.BATCH)
    rows, length = shape.rows, shape.length
    return {
        name: jax.ShapeDtypeStruct(spec.shape_in(rows, length, net.task.segments), spec.dtype, sharding=place)
        for name, spec in net.task.arrays.items()
    }


def compile_eval(net: Network, shapes: Iterable[Shape]) -> dict[Shape, Any]:
    """Compiled `eval_step`s by batch shape; each device, and so each process, gets all results."""

    def compiled(shape: Shape) -> Any:
        function = functools.partial(step.eval_step, task=net.task, graphdef=net.graphdef_for(shape))
        whole = NamedSharding(net.mesh, PartitionSpec())
        return (
            jax.jit(function, out_shardings=whole).lower(net.abstract, abstract_batch(net, shape)).compile()
        )

    return {shape: compiled(shape) for shape in shapes}


def predicted_bytes(compiled: Mapping[Any, Any]) -> int:
    """Bytes a device that the largest of `compiled` steps takes: arguments, results and temporaries."""
    sizes = [step.memory_analysis() for step in compiled.values()]
    return max(
        size.argument_size_in_bytes
        + size.output_size_in_bytes
        - size.alias_size_in_bytes
        + size.temp_size_in_bytes
        for size in sizes
    )
