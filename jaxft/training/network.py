"""Builds a task's model over a mesh, without computing anything, and makes its first parameters."""

import dataclasses
import functools
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding

from jaxft.adapters.peft.files import load_adapter
from jaxft.adapters.plan import AdapterPlan, is_adapter
from jaxft.adapters.prompt import EMBEDDING, choose_first_tokens
from jaxft.config.sections import Settings
from jaxft.data.batching.batch import Shape
from jaxft.errors import UserError, list_names
from jaxft.hub.adapter_files import read_adapter
from jaxft.hub.files import read_config
from jaxft.hub.tensors import open_tensors
from jaxft.hub.weights import has_tensors, load_weights
from jaxft.layers import parameter_paths
from jaxft.layers.attention.flops import count_products
from jaxft.layers.attention.over_mesh import Blocks
from jaxft.layers.heads.kinds import HeadKind
from jaxft.layers.heads.masked_token import WORD_PARAMETERS
from jaxft.layers.parameters import Kind, Role, read_roles
from jaxft.layers.runtime import Runtime
from jaxft.layers.transformer.layer_stacks import depth_of, is_stack
from jaxft.models.model_config import ModelConfig
from jaxft.models.pretrained_model import PretrainedModel
from jaxft.models.registry import family_of, read_model_config
from jaxft.parallel.mesh import BATCH_SPEC, ParameterAxes, put_array, with_shardings
from jaxft.tasks.base import Task
from jaxft.tasks.registry import head_kind
from jaxft.training.programs import compile_once
from jaxft.training.step import Structure


@dataclasses.dataclass(frozen=True)
class Network:
    """A task's model in the abstract: its structure, and the shape and sharding of every parameter.

    Attributes:
      task: the task.
      model_config: the shape of the backbone.
      runtime: how it computes.
      graphdef: the structure for batches of unknown shape.
      graphdef_for: returns the structure for batches of a shape.
      mesh: the devices.
      abstract: the shape, dtype and sharding of every parameter and statistic by path.
      roles: the role of every parameter by path.
      new_parameters: makes new parameters by path from a uint32 seed.
      prunes_outputs: whether the last layer can compute only the positions that the loss reads.
      adapters: the adapters of the model; None if it has none.
      uncompressed: the same network with a float32 base, if the base of its adapters is compressed; see
        `config.adapter.base_dtype`.
    """

    task: Task
    model_config: ModelConfig
    runtime: Runtime
    graphdef: Structure
    graphdef_for: Callable[[Shape], Structure]
    mesh: Mesh
    abstract: dict[str, jax.ShapeDtypeStruct]
    roles: dict[str, Role]
    new_parameters: Callable[[jax.Array], dict[str, jax.Array]]
    prunes_outputs: bool
    adapters: AdapterPlan | None = None
    uncompressed: "Network | None" = None

    @property
    def original(self) -> "Network":
        """Returns the network into which weights are loaded: itself, unless its base is compressed."""
        return self.uncompressed or self

    @functools.cached_property
    def parameter_count(self) -> int:
        """Returns the number of parameters, without statistics."""
        roles = self.roles
        return sum(leaf.size for n, leaf in self.abstract.items() if roles[n].kind is not Kind.STATISTIC)

    @functools.cached_property
    def fixed_names(self) -> list[str]:
        """Returns the paths of the parameters that a run with adapters does not train."""
        adapters = self.adapters
        if adapters is None:
            return []
        return [name for name, role in self.roles.items() if not adapters.trains(name, role)]

    @functools.cached_property
    def base_names(self) -> list[str]:
        """Returns the paths of those of them that the model has without adapters: checkpoints leave these out."""
        return [name for name in self.fixed_names if not is_adapter(name)]

    @functools.cached_property
    def kept(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns the shape, dtype and sharding of the parameters that checkpoints hold, by path."""
        base = set(self.base_names)
        return {name: leaf for name, leaf in self.abstract.items() if name not in base}

    @property
    def axes(self) -> ParameterAxes:
        """Returns the axes of the mesh that split each parameter, if they divide it."""
        return {name: role.axes for name, role in self.roles.items()}

    @property
    def vocabulary(self) -> str:
        """Returns the path of the embedding of tokens."""
        return next(name for name, role in self.roles.items() if role.kind is Kind.VOCABULARY)

    def train_flops_per_token(
        self, length: int, output_share: float = 1.0, frozen: Collection[str] | None = None
    ) -> float:
        """Returns the model FLOPs per token (or image), forward and backward, without recomputation.

        Each weight of a matrix product, including the tied embedding of the output layer, costs six FLOPs. A frozen one
        costs four, for it has no gradient, or two if nothing below it is trained either, for then what it reads has
        none. Attention costs six (or two) for each number of the vectors that it multiplies a query with; see
        `count_products`. Of a layer that sees entire rows, these are the row's keys and values, which makes 12 * length
        * width. Source: Chowdhery et al. 2022 (PaLM), appendix B. With R-Drop there are two passes. A weight of an
        image's network counts as often as it multiplies.

        Args:
          length: the number of slots in a row.
          output_share: the share of tokens for which the last layer computes its products after attention.
          frozen: the paths of the frozen parameters; by default those that adapters leave as they are.
        """
        frozen = set(self.fixed_names if frozen is None else frozen)
        lowest = min(
            depth_of(name)
            for name, role in self.roles.items()
            if name not in frozen and role.kind is not Kind.STATISTIC
        )
        row_positions = self.model_config.count_positions(length)
        positions = row_positions // length  # of a slot
        if positions > 1 and self.prunes_outputs:
            output_share = 1 / positions

        def multiplies_tokens(role: Role) -> bool:
            return role.kind in (Kind.KERNEL, Kind.ADAPTER) and role.reads_tokens

        def weight_flops(name: str) -> int:
            uses = self.roles[name].uses or (1 if name.startswith("head/") else positions)
            return uses * count_flops(depth_of(name), name in frozen)

        def count_flops(depth: float, is_frozen: bool) -> int:
            return 6 if not is_frozen else 4 if depth >= lowest else 2

        kernels = {name: leaf for name, leaf in self.abstract.items() if multiplies_tokens(self.roles[name])}
        dense: float = sum(weight_flops(name) * leaf.size for name, leaf in kernels.items())
        if self.task.predicts_tokens:
            # The head's layers run where states are read, and words are scored where the loss is. One of the layers may
            # take the place of the word embeddings.
            vocabulary = self.abstract[self.vocabulary]
            head = {name: leaf for name, leaf in kernels.items() if name.startswith("head/")}
            flops = {name: weight_flops(name) * leaf.size for name, leaf in head.items()}
            scores = sum(flops[name] for name, leaf in head.items() if vocabulary.shape[0] in leaf.shape)
            dense -= (1 - output_share) * (sum(flops.values()) - scores) + scores
            scored_share = min(output_share, self.task.batch_spec.labelled_share)
            tied = positions * count_flops(math.inf, self.vocabulary in frozen) * vocabulary.size
            dense += scored_share * (scores or tied)
        stacks = {name: leaf for name, leaf in kernels.items() if is_stack(name)}
        after_attention = [name for name in stacks if not self.roles[name].reads_all_positions]
        last_layer = sum(
            weight_flops(name) * stacks[name].size // stacks[name].shape[0] for name in after_attention
        )
        dense -= (1 - output_share) * last_layer
        attention = 0
        if stacks:
            model_config = self.model_config
            prefix_length = 0 if self.adapters is None else self.adapters.settings.prefix_length
            products = (
                count_products(
                    self.runtime.attention_for(visibility),
                    row_positions,
                    visibility,
                    model_config.relative_products,
                )
                + 2 * prefix_length
                for visibility in model_config.visibilities
            )
            attention = count_flops(1, 1 < lowest) * model_config.hidden_size * sum(products) * positions
        return self.task.backbone_passes * (dense + attention)


def make_network(
    task: Task,
    model_config: ModelConfig,
    runtime: Runtime,
    mesh: Mesh,
    plan_adapters: Callable[[nnx.Module], AdapterPlan] | None = None,
) -> Network:
    """Describes the task's model on `mesh`. Computes nothing.

    Args:
      task: builds the model.
      model_config, runtime: the backbone's shape and how it computes, from `resolve_model`.
      mesh: the devices.
      plan_adapters: returns the adapters of the model, which it gets in the abstract; None for none.
    """
    runtime = dataclasses.replace(runtime, mesh=mesh)

    def make_model(model_runtime: Runtime, rngs: nnx.Rngs) -> nnx.Module:
        model = task.build_model(model_config, model_runtime, rngs)
        if adapters is not None:
            adapters.attach(model, rngs)
            adapters.compress_base(model)
        return model

    def new_parameters(seed: jax.Array) -> dict[str, jax.Array]:
        model = make_model(runtime, nnx.Rngs(params=jax.random.key(seed)))
        return parameter_paths.flatten(nnx.to_pure_dict(nnx.state(model)))

    def build(model_runtime: Runtime) -> nnx.Module:
        return nnx.eval_shape(lambda: make_model(model_runtime, nnx.Rngs(params=0)))

    adapters = None
    if plan_adapters is not None:
        adapters = plan_adapters(build(runtime))

    @functools.cache
    def graphdef(blocks: Blocks | None) -> Structure:
        return nnx.split(build(dataclasses.replace(runtime, blocks=blocks)))[0]

    uncompressed = None
    if adapters is not None and adapters.settings.base_dtype != "float32":
        plan = dataclasses.replace(
            adapters, settings=dataclasses.replace(adapters.settings, base_dtype="float32")
        )
        uncompressed = make_network(task, model_config, runtime, mesh, lambda _: plan)
    roles = read_roles(build(runtime))
    axes = {name: role.axes for name, role in roles.items()}
    return Network(
        task=task,
        model_config=model_config,
        runtime=runtime,
        graphdef=graphdef(None),
        graphdef_for=lambda shape: graphdef(shape.blocks or None),
        mesh=mesh,
        abstract=with_shardings(jax.eval_shape(new_parameters, jnp.uint32(0)), axes, mesh),
        roles=roles,
        new_parameters=new_parameters,
        prunes_outputs=runtime.unroll,  # to separate the last of scanned layers, all would be copied
        adapters=adapters,
        uncompressed=uncompressed,
    )


def make_abstract_batch(net: Network, shape: Shape) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shape, dtype and sharding of the arrays of a batch of `shape`; the mesh splits its rows."""
    sharding = NamedSharding(net.mesh, BATCH_SPEC)
    rows, length = shape.rows, shape.length
    batch = {
        name: jax.ShapeDtypeStruct(
            spec.shape_in(rows, length, net.task.batch_spec.max_segments), spec.dtype, sharding=sharding
        )
        for name, spec in net.task.batch_spec.arrays.items()
    }
    if any(shape.output_shape):
        batch["output_positions"] = jax.ShapeDtypeStruct(shape.output_shape, np.int32, sharding=sharding)
    return batch


def initial_parameters(
    net: Network,
    config: Settings,
    checkpoint: PretrainedModel,
    find_head_order: Callable[[Mapping[str, Any]], list[int] | None] | None = None,
) -> tuple[dict[str, jax.Array], str]:
    """Returns the first parameters by path, with their shardings, and a line for the log that names their source.

    See `load_parameters`. First values of adapters may follow from the weights next to them, or be those of an adapter
    in PEFT's files; `find_head_order` finds the labels of its head, by default as the task does (see `load_adapter`).
    The base is float32; `frozen_base.select_base` compresses it.
    """
    net = net.original
    parameters, line = load_parameters(net, config, checkpoint)
    if net.adapters is None:
        return parameters, line
    parameters |= _initialize_adapters(net, net.adapters, parameters)
    if text := config.adapter.prompt_tuning_init_text:
        leaf = net.abstract[EMBEDDING]
        ids = choose_first_tokens(checkpoint.tokenizer, text, leaf.shape[0])
        parameters[EMBEDDING] = put_array(
            np.asarray(parameters[net.vocabulary][np.asarray(ids)]), leaf.sharding
        )
    if config.adapter.init_from is not None:
        family, kind = family_of(checkpoint.hf_config), head_kind(config.task)
        table = family.table_with_head(kind, net.model_config)
        adapter = read_adapter(config.adapter.init_from)
        find_order = find_head_order or net.task.head_order
        usual = dict(checkpoint.hf_config)
        if kind in family.heads:
            usual["architectures"] = [family.heads[kind].architecture]
        loaded, note = load_adapter(
            adapter,
            net.adapters,
            table,
            net.abstract,
            kind,
            # A config.json that says only what the labels are is about a head of the base's family.
            lambda fields: find_order({**usual, **fields}),
        )
        placed = {path: put_array(value, net.abstract[path].sharding) for path, value in loaded.items()}
        placed = net.adapters.keep_other_layers(placed, parameters)
        for path in net.base_names:  # which checkpoints leave out
            if path in placed and not jnp.array_equal(placed[path], parameters[path]):
                raise UserError(
                    f"config.adapter.init_from={config.adapter.init_from}: the adapter changes {path!r} of its base "
                    "without training it; merge it in PEFT (merge_and_unload), and start from the merged model"
                )
        parameters |= placed
        line += f"; {note}"
    return parameters, line


def load_parameters(
    net: Network, config: Settings, checkpoint: PretrainedModel
) -> tuple[dict[str, jax.Array], str]:
    """Returns the parameters of the checkpoint, and new ones in place of those that it has not; see the caller.

    Each is placed on its devices as soon as it is read or made, so no host holds all parameters unless its devices do.
    """
    if config.model.init == "pretrained":
        loaded, line = _load_pretrained(net, checkpoint, head_kind(config.task))
    else:
        loaded = {}
        line = f"all {len(net.abstract)} parameters newly initialized (config.model.init=scratch)"
    new_names = [name for name in net.abstract if name not in loaded]

    def make_new_parameters(seed: jax.Array) -> dict[str, jax.Array]:
        made = net.new_parameters(seed)
        return {name: made[name] for name in new_names}

    # jit removes the computation of parameters that are not in the result.
    make_new = jax.jit(
        make_new_parameters,
        out_shardings={name: net.abstract[name].sharding for name in new_names},
        keep_unused=True,
    )
    seed = np.uint32(config.seed)
    new = compile_once(make_new.lower(seed), net.mesh)(seed)
    return {name: (new if name in new else loaded)[name] for name in net.abstract}, line


def _initialize_adapters(
    net: Network, plan: AdapterPlan, parameters: dict[str, jax.Array]
) -> dict[str, jax.Array]:
    """Returns the first parameters of adapters, some of which follow from the kernels next to them."""
    names = [name for name in parameters if is_adapter(name)]

    def initialize(parameters: dict[str, jax.Array]) -> dict[str, jax.Array]:
        model = nnx.merge(net.graphdef, parameter_paths.unflatten(parameters))
        plan.initialize(model)
        changed = parameter_paths.flatten(nnx.to_pure_dict(nnx.state(model)))
        return {name: changed[name] for name in names}

    shardings = {name: net.abstract[name].sharding for name in names}
    jitted = jax.jit(initialize, out_shardings=shardings, keep_unused=True)
    return compile_once(jitted.lower(parameters), net.mesh)(parameters)


def _load_pretrained(
    net: Network, checkpoint: PretrainedModel, kind: HeadKind
) -> tuple[dict[str, jax.Array], str]:
    """Returns the parameters that the checkpoint has, by path, and a line for the log."""
    folder, abstract = checkpoint.folder, {n: leaf for n, leaf in net.abstract.items() if not is_adapter(n)}
    assert folder is not None  # only new models have none
    family = family_of(checkpoint.hf_config)
    table = family.table_with_head(kind, net.model_config)
    tensors = open_tensors(folder) if checkpoint.reader is None else checkpoint.reader.open()
    stored = read_model_config(read_config(folder))
    word_axes = {name: 0 for name, role in net.roles.items() if role.kind is Kind.VOCABULARY}
    if net.task.predicts_tokens:
        word_axes |= {name: -1 for name in WORD_PARAMETERS if name in abstract}
    for name, axis in word_axes.items():
        shape = list(abstract[name].shape)
        shape[axis] = stored.vocab_size
        abstract[name] = jax.ShapeDtypeStruct(tuple(shape), abstract[name].dtype)
    resized = family.resize(stored, net.model_config)
    for name, parameter in resized.items():
        abstract[name] = jax.ShapeDtypeStruct(parameter.shape, abstract[name].dtype)

    def place(name: str, value: np.ndarray) -> jax.Array:
        if name in resized:
            value = resized[name].convert(value)
        if name in word_axes and checkpoint.added_token_count:
            value = _add_words(value, word_axes[name], checkpoint, net.abstract[net.vocabulary].shape[0])
        if head_order is not None and name.rpartition("/")[0] == "head":  # its other layers are deeper
            value = value[..., head_order]
        return put_array(value, net.abstract[name].sharding)

    # The head of one task is useless for another, and that for some labels for others. But a family may have layers of
    # pretraining's head in all heads.
    shared = {rule.parameter for rule in family.shared_head_rules(kind, net.model_config)}
    head = [name for name in abstract if name.startswith("head/")]
    head_order = net.task.head_order(checkpoint.hf_config)
    keeps_head = head_order is not None or (
        net.task.predicts_tokens
        and any(has_tensors(table, tensors, name) for name in head if name not in shared)
    )
    has_pooler = any("pooler." in name for name in tensors)  # checkpoints of some tasks have none

    def is_new(name: str) -> bool:
        if name.startswith("head/") and not keeps_head:
            return name not in shared or not has_tensors(table, tensors, name)
        return name.startswith("backbone/pooler/") and not has_pooler

    loaded, report = load_weights(
        table,
        tensors,
        abstract,
        new=[name for name in abstract if is_new(name)],
        place=place,
        source=str(folder),
    )
    line = f"{report}{_describe_head(net, checkpoint.hf_config, head_order)}"
    if checkpoint.added_token_count:
        known_words = len(checkpoint.tokenizer) - checkpoint.added_token_count
        added = f"{checkpoint.added_token_count} new words (config.data.added_tokens)"
        line += f"; {added} begin as the mean of the other {known_words:,}"
    return loaded, line


def _add_words(value: np.ndarray, axis: int, checkpoint: PretrainedModel, count: int) -> np.ndarray:
    """Returns a parameter for `count` words along an axis; words that were added begin as the mean of the others."""
    words = np.moveaxis(value, axis, 0)
    known_words = len(checkpoint.tokenizer) - checkpoint.added_token_count  # a table may have room for more
    mean = words[:known_words].mean(axis=0, dtype=np.float64).astype(value.dtype)
    grown = np.concatenate([words, np.broadcast_to(mean, (count - len(words), *mean.shape))])
    grown[known_words : known_words + checkpoint.added_token_count] = mean
    return np.moveaxis(grown, 0, axis)


def _describe_head(net: Network, hf_config: Mapping[str, Any], head_order: list[int] | None) -> str:
    """Returns the end of the log's line about a checkpoint: what became of its head, if it has one for labels."""
    if head_order is not None:
        return f"; the checkpoint's head is kept, for it has the same {len(head_order)} labels"
    names = list((hf_config.get("id2label") or {}).values())
    if not names or not net.task.labels or set(names) == set(net.task.labels):
        return ""
    old, new = list_names(names, most=8), list_names(net.task.labels, most=8)
    return f"; the checkpoint's head is for {old}, so the head for {new} is new"
