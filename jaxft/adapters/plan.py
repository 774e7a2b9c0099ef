"""Adds adapters to a model, compresses its frozen weights, says what is trained, and merges adapters into layers."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from jaxft.adapters.base import Method, Target
from jaxft.adapters.registry import METHODS
from jaxft.adapters.targets import end_pattern, find_targets
from jaxft.config.adapter import Adapter as AdapterSettings
from jaxft.errors import UserError
from jaxft.hub.weights import WeightRule, WeightTable, file_name
from jaxft.layers import parameter_paths
from jaxft.layers.embedding import Embedding
from jaxft.layers.linear import Linear
from jaxft.layers.parameters import Kind, Role, make_parameter
from jaxft.layers.transformer.layer_stacks import is_stack
from jaxft.models.model_config import ModelConfig

ADAPTER = "/adapter/"  # in the paths of the parameters of adapters, and of no others


@dataclasses.dataclass(frozen=True)
class AdapterPlan:
    """Holds what a run adds to its model and trains of it.

    Attributes:
      settings: the settings of adapters.
      targets: what gets adapters.
      saved: the paths of the backbone's parameters that are trained because `modules_to_save` names them.
      shape: the shape of the backbone.
      layers: for each stack of parameters that is trained in some layers only, by path, whether it is in each.
    """

    settings: AdapterSettings
    targets: tuple[Target, ...]
    saved: frozenset[str]
    shape: ModelConfig
    layers: Mapping[str, tuple[bool, ...]] = dataclasses.field(default_factory=dict)

    @property
    def method(self) -> Method:
        """Returns the method of adapters."""
        return METHODS[self.settings.method]

    @property
    def penalize(self) -> Callable[[Mapping[str, Any]], jax.Array] | None:
        """Returns what computes a term of the loss from the trained parameters by path; None for none."""
        return self._bind(self.method.penalize)

    @property
    def wrap_optimizer(self) -> Callable[..., optax.GradientTransformation] | None:
        """Returns what makes the optimizer of the run from another, see `Method`; None to leave it as it is."""
        return self._bind(self.method.wrap_optimizer)

    def _bind(self, function: Callable[..., Any] | None) -> Callable[..., Any] | None:
        """Returns a function of the method with its targets and settings."""
        return function and functools.partial(function, targets=self.targets, settings=self.settings)

    def describe(self) -> str:
        """Returns a line for the log: the method, and the modules that get adapters."""
        if self.method.attach is not None:
            return f"adapters: {self.settings.method} of {self.settings.num_virtual_tokens} virtual tokens"
        modules = []
        for target in self.targets:
            name = target.tensor.removesuffix(".weight").replace("{layer}", "*")
            count = sum(rank > 0 for rank in target.ranks)
            modules.append(f"{name} ({count} of {len(target.ranks)} layers)" if target.is_stacked else name)
        return f"adapters: {self.settings.method}" + (f" of {', '.join(modules)}" if modules else "")

    def attach(self, model: nnx.Module, rngs: nnx.Rngs) -> None:
        """Gives the targets' linear layers their adapters, with new parameters."""
        linears = find_linears(model)
        for target in self.targets:
            assert self.method.make is not None  # methods without adapters have no targets
            layers = [linears[path] for path in target.linears]
            adapters = self.method.make(layers, target, self.settings, rngs)
            for linear, adapter in zip(layers, adapters, strict=True):
                linear.adapter = adapter  # type: ignore[assignment]  # it is an `Adapter`
        if self.method.attach is not None:
            backbone = cast(Any, model).backbone
            if not hasattr(backbone, "adapter"):
                raise UserError(
                    f"config.adapter.method={self.settings.method!r}: the model is a {type(backbone).__name__}, which "
                    f"has no place for it; expected one of {', '.join(list_linear_methods())}"
                )
            self.method.attach(backbone, self.settings, rngs)

    def compress_base(self, model: nnx.Module) -> None:
        """Gives frozen matrices the dtype of the settings: kernels and, in bfloat16, tables of embeddings."""
        # With products of ours, because qwix 0.1.8 does not reach them: it replaces `jax.lax.dot_general`, and they are
        # `x @ kernel` in a function with a hand-written gradient. Its providers left `Linear` as it is, in float32.
        dtype = jnp.dtype(self.settings.base_dtype)
        if dtype == jnp.float32:
            return
        for path, node in list(nnx.iter_graph(model)):
            kind = "kernel" if isinstance(node, Linear) else "embedding"
            if not isinstance(node, Linear | Embedding) or (kind == "embedding" and dtype == jnp.int8):
                continue
            role = getattr(node, kind).get_metadata()["role"]
            if not self.trains("/".join(map(str, (*path, kind))), role):
                if isinstance(node, Linear):
                    node.compress(dtype)
                else:
                    node.embedding = make_parameter(node.embedding[...].astype(dtype), role)

    def initialize(self, model: nnx.Module) -> None:
        """Sets the parameters of adapters that follow from the kernels, which must be loaded."""
        if self.method.initialize is None:
            return
        linears = find_linears(model)
        for target in self.targets:
            self.method.initialize([linears[path] for path in target.linears], target, self.settings)

    def tensors_of(self, rule: WeightRule, shape: tuple[int, ...]) -> dict[str, bool]:
        """Returns the tensors of a parameter by name, with whether each is of a layer in which it is trained."""
        names = rule.tensor_names(shape)
        layers = self.layers.get(rule.parameter, (True,) * len(names))
        return dict(zip(names, layers[-len(names) :], strict=True))

    def keep_other_layers(
        self, loaded: Mapping[str, jax.Array], parameters: Mapping[str, jax.Array]
    ) -> dict[str, jax.Array]:
        """Returns loaded parameters by path, with those of `parameters` in the layers that are not trained."""

        def keep(path: str, value: jax.Array) -> jax.Array:
            is_trained = np.asarray(self.layers[path]).reshape(-1, *[1] * (value.ndim - 1))
            merged = jnp.where(is_trained, value, parameters[path])
            return jax.device_put(merged, value.sharding) if isinstance(value, jax.Array) else merged

        return {path: keep(path, value) if path in self.layers else value for path, value in loaded.items()}

    def trains(self, name: str, role: Role) -> bool:
        """Returns whether the parameter at path `name` is trained."""
        if role.kind is Kind.CONSTANT:
            return False
        if is_adapter(name) or not name.startswith("backbone/") or name in self.saved:
            return True
        if not name.endswith("/bias"):
            return False
        is_of_target = any(name == f"{path}/bias" for target in self.targets for path in target.linears)
        return _trains_all_biases(self.settings) or (self.settings.bias == "lora_only" and is_of_target)


def plan_adapters(
    settings: AdapterSettings,
    presets: Mapping[str, Sequence[str]],
    table: WeightTable,
    model: nnx.Module,
) -> AdapterPlan:
    """Returns what a run adds to `model`, which may be abstract, and trains of it.

    Args:
      settings: the settings of adapters, with a method.
      presets: the usual target modules of the model's family; see `models.family.Family`.
      table: maps the model's parameters to tensors.
      model: the model without adapters.

    Raises:
      UserError: the settings do not fit the model.
    """
    kernels = {path: linear.kernel.shape for path, linear in find_linears(model).items()}
    try:
        targets = find_targets(settings, presets, table, kernels)
        saved_layers = _find_saved(settings.modules_to_save, table, model)
        targets = _leave_out_saved(targets, saved_layers)
    except UserError as error:
        if settings.init_from is None:
            raise
        raise UserError(
            f"config.adapter.init_from={settings.init_from}: the model has other modules than the base of the adapter; "
            f"name that base as config.model.checkpoint ({error})"
        ) from None
    trained = {path: np.asarray(layers) for path, layers in saved_layers.items() if is_stack(path)}
    if settings.bias == "lora_only":
        biases = [
            (f"{path}/bias", target) for target in targets if target.is_stacked for path in target.linears
        ]
        trained |= {
            path: (np.asarray(target.ranks) > 0) | trained.get(path, False) for path, target in biases
        }
    if _trains_all_biases(settings):
        trained = {path: layers for path, layers in trained.items() if not path.endswith("/bias")}
    partial = {path: tuple(layers.tolist()) for path, layers in trained.items() if not layers.all()}
    return AdapterPlan(settings, targets, frozenset(saved_layers), cast(Any, model).backbone.config, partial)


def _leave_out_saved(targets: Sequence[Target], saved: Mapping[str, Sequence[bool]]) -> tuple[Target, ...]:
    """Returns targets without the layers that are trained completely, which get no adapters, as in PEFT."""
    left = []
    for target in targets:
        layers = [saved[path] for path in (f"{linear}/kernel" for linear in target.linears) if path in saved]
        ranks = tuple(0 if any(kept) else rank for rank, *kept in zip(target.ranks, *layers, strict=True))
        if any(ranks):
            left.append(dataclasses.replace(target, ranks=ranks))
    return tuple(left)


def list_linear_methods() -> list[str]:
    """Returns the methods that need no place of their own in a backbone."""
    return [name for name, method in METHODS.items() if method.attach is None]


def find_linears(model: nnx.Module) -> dict[str, Linear]:
    """Returns the linear layers of a model's backbone by path, such as "backbone/layers/attention/query"."""
    nodes = ((path, node) for path, node in nnx.iter_graph(model) if isinstance(node, Linear))
    return {"/".join(map(str, path)): node for path, node in nodes if path[:1] == ("backbone",)}


def is_adapter(name: str) -> bool:
    """Returns whether the parameter at path `name` is one of an adapter."""
    return ADAPTER in name


def merge_adapters(model: nnx.Module) -> None:
    """Merges the adapters of a model into its linear layers, in float32, and removes them.

    Kernels of a compressed base become float32.

    Raises:
      UserError: a linear layer cannot compute what its adapter adds.
    """
    for linear in find_linears(model).values():
        linear.expand()
        if linear.adapter is None:
            continue
        if not hasattr(linear.adapter, "update"):
            raise UserError(
                f"adapters of the kind {type(linear.adapter).__name__} cannot be merged into the weights of a model, "
                "which has no place for what they compute; keep the run, and use it by predict or evaluate, or write "
                "the adapter next to a loader for PyTorch (--format peft)"
            )
        update = linear.adapter.update(linear)
        linear.kernel[...] = update.merge(linear.kernel[...])
        if update.bias is not None:
            linear.bias[...] = update.bias
        del linear.adapter


def merge_parameters(
    graphdef: nnx.GraphDef[nnx.Module], parameters: Mapping[str, jax.Array]
) -> dict[str, jax.Array]:
    """Returns the parameters by path of a model without adapters that computes the same; see `merge_adapters`."""
    model = nnx.merge(graphdef, parameter_paths.unflatten(parameters))
    merge_adapters(model)
    merged = parameter_paths.flatten(nnx.to_pure_dict(nnx.state(model)))
    if any(map(is_adapter, merged)):
        raise UserError(
            "a prefix or a prompt cannot be merged into the weights of a model, which has no place for its vectors; "
            "export it with --format peft, or keep the run, and use it by predict or evaluate"
        )
    return merged


def _trains_all_biases(settings: AdapterSettings) -> bool:
    """Returns whether all biases of the backbone are trained."""
    return METHODS[settings.method].trains_biases or settings.bias == "all"


def _find_saved(names: Sequence[str], table: WeightTable, model: nnx.Module) -> dict[str, list[bool]]:
    """Returns the paths of the backbone's parameters in the modules with these names, and in which layers they are.

    A module has the name of transformers, or ours, which is that of all layers. Names may be patterns.
    """
    tensors = {rule.parameter: rule.tensor for rule in table.rules}
    shapes = {"/".join(map(str, path)): leaf.shape for path, leaf in nnx.to_flat_state(nnx.state(model))}
    folders: dict[str, set[tuple[str, int]]] = {}  # the parameters in each, with the number of a layer
    for path, shape in shapes.items():
        for layer in range(shape[0] if is_stack(path) else 1):
            tensor = tensors.get(path, "").replace("{layer}", str(layer))
            for name, separator in ((path, "/"), (tensor, "."), (file_name(table, tensor), ".")):
                pieces = name.split(separator)
                for end in range(1, len(pieces)):
                    folders.setdefault(separator.join(pieces[:end]), set()).add((path, layer))
    rules = [(end_pattern(name), True) for name in names]
    matched = parameter_paths.match_first(rules, folders, what="config.adapter.modules_to_save")
    entries = {entry for folder in matched for entry in folders[folder]}
    return {
        path: [(path, layer) in entries for layer in range(shapes[path][0] if is_stack(path) else 1)]
        for path in sorted({path for path, _ in entries})
    }
