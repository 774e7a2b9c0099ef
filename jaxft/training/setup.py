"""Builds what a run computes with: the network over a mesh, its first parameters, compiled steps."""

import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from jaxft.data.batching import mixed
from jaxft.data.batching.batch import Shape
from jaxft.data.batching.chunked import ChunkedLoader
from jaxft.data.batching.loader import Loader
from jaxft.data.batching.sharded import ShardedLoader
from jaxft.data.encoding.windows import Windows
from jaxft.hub.files import read_config
from jaxft.hub.tensors import open_tensors
from jaxft.hub.weights import load_weights
from jaxft.layers import parameter_paths
from jaxft.layers.attention.choice import make_attention
from jaxft.layers.layer_stacks import map_parameter_dicts, unstack
from jaxft.models.pretrained_model import PretrainedModel, describe_pretrained_model, open_pretrained_model
from jaxft.models.registry import family_of
from jaxft.parallel import processes
from jaxft.parallel.mesh import BATCH_SPEC, parameter_shardings, put_array, with_shardings
from jaxft.tasks import TASKS, Task
from jaxft.training import optimizer as optim
from jaxft.training import step

# The share of tokens read by the loss up to which those are gathered: reckoned, for of a layer's time in the last one
# only a tenth could be gained then. At 0.58 a step of WNUT-17 took 0.955 of its time.
MAX_OUTPUT_SHARE = 0.9
WORD_EMBEDDING = "backbone/embeddings/word/embedding"


def open_base_model(config: ConfigDict, texts: Callable[[], Iterable[str]]) -> PretrainedModel:
    """Opens the model that a run of `config` starts from, as its task demands; see `open_pretrained_model`."""
    task = TASKS[config.task]
    return open_pretrained_model(config, texts, of_words=task.reads_words, supported=task.architectures)


def describe_base_model(config: ConfigDict) -> dict[str, Any]:
    """Returns the config.json of the model that `config` trains; see `describe_pretrained_model`."""
    return describe_pretrained_model(config, TASKS[config.task].architectures)


@dataclasses.dataclass(frozen=True)
class Network:
    """A task's model in the abstract: structure, and the shape and place of every parameter by path."""

    task: Task
    graphdef: nnx.GraphDef  # for batches of which nothing is known
    graphdef_for: Callable[[Shape], nnx.GraphDef]  # for those of a shape
    mesh: Mesh
    abstract: dict[str, jax.ShapeDtypeStruct]  # with shardings
    new_parameters: Any  # uint32 seed -> parameters by path
    prunes_outputs: bool  # whether the last layer leaves positions out that are not wanted
    unstacks_layers: bool  # in train states: on a CPU an unrolled step would copy each layer out of its stack

    @functools.cached_property
    def parameter_count(self) -> int:
        """Number of parameters."""
        return sum(leaf.size for leaf in self.abstract.values())

    def train_flops_per_token(self, length: int, output_share: float = 1.0) -> float:
        """Model FLOPs of forward and backward for a token in a row of `length`, without recomputation.

        Six per weight of a matrix product, the output's tied embedding being one, and 12 * layers * length *
        width for attention scores and their weighted sum. Source: Chowdhery et al. 2022 (PaLM), appendix B.
        output_share: the share of tokens that the last layer gives, which it takes through its products after attention.
        With R-Drop there are two passes.
        """
        kernels = {name: leaf for name, leaf in self.abstract.items() if name.endswith("kernel")}
        dense = 6 * sum(leaf.size for leaf in kernels.values())
        if self.task.predicts_tokens:
            dense += 6 * output_share * self.abstract[WORD_EMBEDDING].size
        after = [
            leaf for name, leaf in kernels.items() if re.search(r"/layers/(attention/output|mlp/)", name)
        ]
        dense -= 6 * (1 - output_share) * sum(leaf.size // leaf.shape[0] for leaf in after)
        query = next(leaf for name, leaf in kernels.items() if name.endswith("query/kernel"))
        return self.task.backbone_passes * (dense + 12 * query.shape[0] * length * query.shape[-1])


def make_network(task: Task, sizes: dict[str, Any], mesh: Mesh) -> Network:
    """The task's model over a backbone of `sizes`, as `body_sizes` gives them, laid over `mesh`. Computes nothing."""
    sizes = dict(sizes)
    attend = functools.partial(make_attention, sizes.pop("attention", "dense"), mesh)
    sizes["attention_function"] = attend()
    sizes["activations"] = NamedSharding(mesh, BATCH_SPEC) if mesh.size > 1 else None

    def parameters(seed: jax.Array) -> dict[str, jax.Array]:
        model = task.build_model(sizes, nnx.Rngs(params=jax.random.key(seed)))
        return parameter_paths.flatten(nnx.to_pure_dict(nnx.state(model)))

    # Scanned layers would be copied to take the last from the others; over devices, positions would travel.
    prunes_outputs = sizes["unroll"] and mesh.size == 1

    @functools.cache
    def graphdef(block: int, every: int, output_count: int) -> nnx.GraphDef:
        known = sizes | {
            "attention_function": attend(block=block, every=every),
            "output_count": output_count * prunes_outputs,
        }
        return nnx.split(nnx.eval_shape(lambda: task.build_model(known, nnx.Rngs(params=0))))[0]

    shapes = jax.eval_shape(parameters, jnp.uint32(0))
    shardings = parameter_shardings(shapes, mesh)
    abstract = {
        name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=shardings[name])
        for name, leaf in shapes.items()
    }
    apart = prunes_outputs and mesh.devices.flat[0].platform == "cpu"
    return Network(
        task=task,
        graphdef=graphdef(0, 0, 0),
        graphdef_for=lambda shape: graphdef(*shape[2:]),
        mesh=mesh,
        abstract=abstract,
        new_parameters=parameters,
        prunes_outputs=prunes_outputs,
        unstacks_layers=apart,
    )


def initial_parameters(net: Network, config: ConfigDict, checkpoint: PretrainedModel) -> tuple[dict, str]:
    """Parameters in their shardings, from the checkpoint or new, and a line that says which are which.

    Each is put there as soon as it is read or made: no host holds them all, unless its devices do.
    """
    loaded: dict[str, jax.Array] = {}
    said = f"all {len(net.abstract)} parameters newly initialized (config.model.init=scratch)"
    if config.model.init == "pretrained":
        folder, abstract = checkpoint.folder, dict(net.abstract)
        stored = family_of(checkpoint.hf_config).config.sizes(read_config(folder))["vocab_size"]
        rows, width = abstract[WORD_EMBEDDING].shape
        abstract[WORD_EMBEDDING] = jax.ShapeDtypeStruct((stored, width), abstract[WORD_EMBEDDING].dtype)
        known = len(checkpoint.tokenizer) - checkpoint.added  # a table may have room for more

        def place(name: str, value: np.ndarray) -> jax.Array:
            if name == WORD_EMBEDDING and checkpoint.added:
                value = np.concatenate([value, np.empty((rows - stored, width), value.dtype)])
                value[known : known + checkpoint.added] = value[:known].mean(axis=0, dtype=np.float64)
            return put_array(value, net.abstract[name].sharding)

        tensors = open_tensors(folder)
        # Checkpoints of other tasks have no pooler, and no task's head is another's.
        new = ("head/",) if any("pooler." in name for name in tensors) else ("head/", "backbone/pooler/")
        loaded, report = load_weights(
            family_of(checkpoint.hf_config).table,
            tensors,
            abstract,
            new=[name for name in abstract if name.startswith(new)],
            place=place,
            source=str(folder),
        )
        said = str(report)
        if checkpoint.added:
            added = f"{checkpoint.added} new words (config.data.added_tokens)"
            said += f"; {added} begin as the mean of the other {known:,}"
    fresh = [name for name in net.abstract if name not in loaded]
    # jit removes what is computed for parameters that are not asked for.
    new = jax.jit(
        lambda seed: {name: net.new_parameters(seed)[name] for name in fresh},
        out_shardings={name: net.abstract[name].sharding for name in fresh},
    )(np.uint32(config.seed))
    return {name: (new if name in new else loaded)[name] for name in net.abstract}, said


@dataclasses.dataclass(frozen=True)
class Trainer:
    """The functions of a training run and the shapes of what they work on."""

    net: Network
    schedule: optax.Schedule
    optimizer: optax.GradientTransformation
    abstract: step.TrainState  # with shardings; what the train step takes
    stacked: step.TrainState  # the same with each parameter's layers in one array, as checkpoints hold it
    train_step: Any  # jitted: (state, batch, seed) -> (state, metrics); the state is donated

    def compile(self, shape: Shape) -> Any:
        """`train_step` compiled for batches of `shape`."""
        seed = jax.ShapeDtypeStruct((), jnp.uint32, sharding=self.abstract.step.sharding)
        batch = make_abstract_batch(self.net, shape)
        graphdef = self.net.graphdef_for(shape)
        return self.train_step.lower(self.abstract, batch, seed, graphdef=graphdef).compile()

    def new_state(self, parameters: dict[str, jax.Array]) -> step.TrainState:
        """The state at step 0, as `train_step` takes it."""
        if self.net.unstacks_layers:
            parameters = unstack(parameters)
        trainable = {name: parameters[name] for name in self.abstract.trainable}
        frozen = {name: parameters[name] for name in self.abstract.frozen}
        shardings = jax.tree.map(lambda leaf: leaf.sharding, self.abstract.opt_state)
        opt_state = jax.jit(self.optimizer.init, out_shardings=shardings)(trainable)
        start = put_array(np.int32(0), self.abstract.step.sharding)
        return step.TrainState(start, trainable, frozen, opt_state)

    def restored_state(self, stacked: step.TrainState) -> step.TrainState:
        """A state from a checkpoint, as `train_step` takes it."""
        return map_parameter_dicts(unstack, stacked) if self.net.unstacks_layers else stacked


def make_trainer(net: Network, config: ConfigDict, *, total: int, warmup: int) -> Trainer:
    """The optimizer and train step of `config` for a run of `total` steps."""
    names = list(net.abstract)
    trainable, frozen = optim.split_frozen(config, names)
    schedule = optim.make_schedule(config, total=total, warmup=warmup)
    optimizer = optim.make_optimizer(config, schedule, trainable)
    whole = NamedSharding(net.mesh, PartitionSpec())
    parameters = {name: net.abstract[name] for name in trainable}
    stacked = step.TrainState(
        jax.ShapeDtypeStruct((), jnp.int32),
        parameters,
        {name: net.abstract[name] for name in frozen},
        jax.eval_shape(optimizer.init, parameters),
    )
    cut = jax.eval_shape(functools.partial(map_parameter_dicts, unstack), stacked)
    stacked = with_shardings(stacked, net.mesh)
    abstract = with_shardings(cut, net.mesh) if net.unstacks_layers else stacked
    function = functools.partial(
        step.train_step,
        task=net.task,
        graphdef=net.graphdef,
        optimizer=optimizer,
        schedule=schedule,
        clip=config.optim.clip,
        accumulate=config.batch.accumulate,
        microbatches=NamedSharding(net.mesh, PartitionSpec(None, *BATCH_SPEC)),
        places=jax.tree.map(lambda leaf: leaf.sharding, abstract.trainable),
        gradient_dtype=jnp.dtype(config.optim.gradients),
    )
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    on_gpu = net.mesh.devices.flat[0].platform == "gpu"
    # Left to itself XLA adds up gradients of embeddings there by atomic additions, and times kernels to choose some.
    fixed_order = {"xla_gpu_deterministic_ops": True} if on_gpu and config.train.deterministic else None
    train_step = jax.jit(
        function,
        donate_argnums=0,
        out_shardings=(shardings, whole),
        static_argnames="graphdef",
        compiler_options=fixed_order,
    )
    return Trainer(net, schedule, optimizer, abstract, stacked, train_step)


def make_train_loader(
    windows: Mapping[int, Windows], config: ConfigDict, *, only: np.ndarray, **options
) -> Loader | ChunkedLoader | ShardedLoader:
    """Batches of the training data, of whose parts, from 0, these are the `windows` that feed the rows `only`.

    options: of `Loader`, beside those that `config` has.
    """
    data, rows = config.data, config.batch.rows
    if data.shards > 1:
        of_parts = {"parts": data.shards, "pool": processes.gather_by_shard}
        return ShardedLoader(windows, rows=rows, only=only, **of_parts, **options)
    mix = mixed.Mix(data.mix, data.mix_temperature, data.mix_weights, config.batch.by_task)
    return mixed.make_loader(windows[0], mix, rows=rows, only=only, pack=data.pack, shuffle=True, **options)


def prune_outputs(
    net: Network,
    loader: Loader | ChunkedLoader | ShardedLoader,
    windows: Mapping[int, Windows],
    *,
    steps: int,
    parts: int,
) -> float:
    """Has the loader's shapes tell how many positions the loss reads, so that the last layer gives those alone.

    Done where the network can, the data is in one part, and enough is left out. windows: the loader's, by part. steps:
    of the run. parts: microbatches of a batch. Gives the share of tokens that the last layer then has to give.
    """
    counts = net.prunes_outputs and not isinstance(loader, ShardedLoader)
    output_counts = net.task.output_counts(windows[0]) if counts else None
    if output_counts is None:
        return 1.0
    share = float(output_counts.sum() / windows[0].lengths.sum())
    if share > MAX_OUTPUT_SHARE:
        return 1.0
    loader.count_outputs(output_counts, steps, parts)
    return share


def make_abstract_batch(net: Network, shape: Shape) -> dict[str, jax.ShapeDtypeStruct]:
    """A batch of `shape`, its rows split over the mesh."""
    place = NamedSharding(net.mesh, BATCH_SPEC)
    rows, length = shape.rows, shape.length
    return {
        name: jax.ShapeDtypeStruct(
            spec.shape_in(rows, length, net.task.max_segments), spec.dtype, sharding=place
        )
        for name, spec in net.task.arrays.items()
    }


def compile_eval(net: Network, shapes: Iterable[Shape]) -> dict[Shape, Any]:
    """Compiled `eval_step`s by batch shape; each device, and so each process, gets all results."""

    def compiled(shape: Shape) -> Any:
        function = functools.partial(step.eval_step, task=net.task, graphdef=net.graphdef_for(shape))
        whole = NamedSharding(net.mesh, PartitionSpec())
        return (
            jax.jit(function, out_shardings=whole)
            .lower(net.abstract, make_abstract_batch(net, shape))
            .compile()
        )

    return {shape: compiled(shape) for shape in shapes}


def predict_bytes(compiled: Mapping[Any, Any]) -> int:
    """Bytes a device that the largest of `compiled` steps takes: arguments, results and temporaries."""
    sizes = [step.memory_analysis() for step in compiled.values()]
    return max(
        size.argument_size_in_bytes
        + size.output_size_in_bytes
        - size.alias_size_in_bytes
        + size.temp_size_in_bytes
        for size in sizes
    )
