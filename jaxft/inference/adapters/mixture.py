"""Makes one model of several adapted models with the same base: a backbone for all, and the head of each.

A row may hold texts of several adapters. Each slot uses the adapter of its text (`adapters/by_slot.py`). Every head
reads all states, as heads of several tasks do, and the evaluator takes the outputs for the texts of its adapter.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from jaxft.adapters.by_slot import POOLER, adapters_of_slots, share_backbone
from jaxft.adapters.plan import is_adapter
from jaxft.data.batching.batch import INPUTS, BatchSpec
from jaxft.data.encoding.encoded import ArraySpec
from jaxft.errors import UserError
from jaxft.inference.adapters.records import ADAPTER, MixedEvaluator
from jaxft.inference.adapters.sources import AdapterSource, errors_name, load_source
from jaxft.inference.model import Model
from jaxft.layers import parameter_paths
from jaxft.layers.dropout import DropoutSeed
from jaxft.layers.heads.backbone import Backbone
from jaxft.layers.inputs import Inputs
from jaxft.layers.parameters import read_roles
from jaxft.models.model_config import ModelConfig
from jaxft.tasks.base import AnyEvaluator, Arrays, Log, Task
from jaxft.training.network import Network


class MixedModel(nnx.Module):
    """The models of several adapters with one backbone. Each has its head, and its pooler if it pools.

    Args:
      models: the models, whose backbone is the same.
      poolers: the pooler of each; None where a model has none.
    """

    def __init__(
        self, backbone: nnx.Module, models: Sequence[nnx.Module], poolers: Sequence[nnx.Module | None]
    ):
        self.backbone = backbone
        self.models: nnx.Dict[Any] = nnx.Dict({str(number): model for number, model in enumerate(models)})
        self.poolers: nnx.Dict[Any] = nnx.Dict(
            {str(number): pooler for number, pooler in enumerate(poolers) if pooler is not None}
        )
        self.have_pooler = tuple(pooler is not None for pooler in poolers)

    def select(self, number: int, states: jax.Array) -> nnx.Module:
        """Returns a model whose backbone returns `states`. It changes the model: call it only in a traced function."""
        model = self.models[str(number)]
        pooler = self.poolers[str(number)] if self.have_pooler[number] else None
        model.backbone = _ComputedBackbone(cast(Backbone, self.backbone), states, pooler)
        return model


class _ComputedBackbone:
    """A backbone that has computed the states of a batch before, with the pooler of an adapter."""

    def __init__(self, backbone: Backbone, states: jax.Array, pooler: Any):
        self.config, self.runtime = backbone.config, backbone.runtime
        self._states, self._pooler = states, pooler

    def __call__(self, inputs: Inputs, dropout: DropoutSeed | None = None) -> jax.Array:
        """Returns the states, `[R, L, D]`."""
        return self._states

    def pool(self, x: jax.Array) -> jax.Array:
        """Applies the pooler to the hidden states of first tokens, `[..., D] -> [..., D]`."""
        return self._pooler(x)


class MixedTask:
    """The tasks of several adapters, whose texts share rows: that of a `Task` which predicts.

    Args:
      tasks: the task of each adapter.
      row_length: the most slots of a row.
    """

    predicts_tokens = False

    def __init__(self, tasks: Sequence[Task], row_length: int):
        self.tasks = tasks
        arrays = INPUTS | {"starts": ArraySpec(np.int32, "segment"), ADAPTER: ArraySpec(np.int32, "segment")}
        segments = [task.batch_spec.max_segments or row_length // 8 for task in tasks]
        self.batch_spec = BatchSpec(arrays, max(1, *segments), row_length)

    def _views(self, model: nnx.Module, batch: Arrays) -> Iterator[tuple[int, Task, nnx.Module, Arrays]]:
        """Yields each task with its number, its model and its batch, which has no labels."""
        assert isinstance(model, MixedModel)
        rows, length = batch["segment_ids"].shape
        numbers = jnp.take_along_axis(batch[ADAPTER], jnp.maximum(batch["segment_ids"] - 1, 0), axis=1)
        with adapters_of_slots(numbers.ravel()):
            states = cast(Any, model.backbone)(Inputs.from_batch(batch))
        for number, task in enumerate(self.tasks):
            missing = {
                name: jnp.zeros(spec.shape_in(rows, length, batch["starts"].shape[1]), spec.dtype)
                for name, spec in task.batch_spec.arrays.items()
                if name not in batch
            }
            yield number, task, model.select(number, states), batch | missing

    def logits(self, model: nnx.Module, batch: Arrays) -> Arrays:
        """Returns the logits of each task, by its number."""
        return {
            str(number): cast(jax.Array, task.logits(task_model, task_batch))
            for number, task, task_model, task_batch in self._views(model, batch)
        }

    def predict(self, model: nnx.Module, batch: Arrays) -> tuple[Arrays, jax.Array, jax.Array]:
        """Returns outputs as NUMBER/KEY, and a loss of 0."""
        outputs: Arrays = {}
        for number, task, task_model, task_batch in self._views(model, batch):
            task_outputs, _, _ = task.predict(task_model, task_batch)
            outputs |= {f"{number}/{key}": value for key, value in task_outputs.items()}
        return outputs, jnp.float32(0), jnp.float32(0)


def load_mixture(sources: Sequence[AdapterSource], log: Log) -> Model:
    """Reads the weights of adapters and of their base, and makes one model of them.

    Raises:
      UserError: the weights are unusable, the adapters have different bases, or one cannot share rows with others.
    """
    models: list[Model] = []
    for source in sources:
        model = load_source(source, log)
        with errors_name(source.flag):
            check_shares_rows(model.net, is_alone=len(sources) == 1)
            if models:
                model = _take_base(model, models[0], sources[0].flag)
        models.append(model)
    return join_models(models)


def check_shares_rows(net: Network, *, is_alone: bool = False) -> None:
    """Raises `UserError` if a network's adapter cannot share rows with others, whatever these are.

    Args:
      net: the network.
      is_alone: whether there are no others. Then only the task matters, because records name the adapter.
    """
    reason, plan = None, net.adapters
    assert plan is not None  # sources have adapters
    trained = [
        name for name in _list_trained(net) if not name.startswith(POOLER) and not name.endswith("/bias")
    ]
    if net.task.predicts_tokens or not INPUTS.keys() <= net.task.batch_spec.arrays.keys():
        reason = "only adapters that label texts or words, or answer questions, can have names and share rows"
    elif is_alone:
        return
    elif not plan.method.can_merge:
        reason = f"several adapters of the method {plan.settings.method!r} cannot share rows"
    elif net.model_config.relative_products:
        reason = (
            "adapters of this family change how the distances of words are read, which is the same in an entire row, "
            "so that several cannot share one"
        )
    elif trained:
        reason = (
            f"the adapter comes with its own {trained[0]!r} of the base, and adapters share rows only if they leave "
            "the base as it is, but for biases and the pooler"
        )
    if reason is not None:
        raise UserError(
            f"{reason}; answer its records by a command of their own, with this adapter alone and without a name"
        )


def _list_trained(net: Network) -> list[str]:
    """Returns the paths of the parameters of the base that a run has trained."""
    return [name for name in net.kept if name.startswith("backbone/") and not is_adapter(name)]


def _shape(net: Network) -> ModelConfig:
    """Returns the shape of a base, without its rates of dropout, which a run may set."""
    config = net.model_config
    rates = [field.name for field in dataclasses.fields(config) if field.name.endswith("_dropout")]
    changes: dict[str, Any] = dict.fromkeys(rates, 0.0)
    return dataclasses.replace(config, **changes)


def _take_base(model: Model, first: Model, flag: str) -> Model:
    """Returns a model that holds the base of the first one in place of its own; raises `UserError` if they differ."""
    if _shape(model.net) != _shape(first.net):
        raise UserError(f"its base has another shape than that of {flag}; expected adapters of the same base")
    dtypes = [each.run.config.adapter.base_dtype for each in (model, first)]
    if dtypes[0] != dtypes[1]:
        raise UserError(
            f"it was trained on a base in {dtypes[0]}, and that of {flag} is in {dtypes[1]} (adapter.base_dtype); "
            "expected adapters of the same base, so answer their records by commands of their own"
        )
    of_first = set(first.net.base_names)
    shared = [name for name in model.net.base_names if name in of_first and not name.startswith(POOLER)]
    for name in shared:
        if not jnp.array_equal(model.parameters[name], first.parameters[name]):
            raise UserError(
                f"its base has another {name!r} than that of {flag}; expected adapters of the same base: if they were "
                "trained on copies of it, name it by --model"
            )
    base = {name: first.parameters[name] for name in shared}
    return dataclasses.replace(model, parameters=model.parameters | base)


def join_models(models: Sequence[Model]) -> Model:
    """Returns one model of several whose bases are the same, and which can share rows."""
    modules = [nnx.merge(m.net.graphdef, parameter_paths.unflatten(m.parameters)) for m in models]
    first = models[0]
    trained = {name for model in models for name in _list_trained(model.net)}
    poolers = [getattr(cast(Any, module).backbone, "pooler", None) for module in modules]
    backbones = {id(cast(Any, module).backbone) for module in modules}
    shared = share_backbone(modules, trained) if len(modules) > 1 else cast(Any, modules[0]).backbone
    for module in modules:  # and the models of tasks in it
        for _, node in list(nnx.iter_graph(module)):
            if id(getattr(node, "backbone", None)) in backbones:
                node.backbone = shared
    mixed: nnx.Module = MixedModel(shared, modules, poolers)
    graphdef, state = nnx.split(mixed)
    # Both do what predictions need.
    task = cast(Task, MixedTask([model.task for model in models], max(model.row_length for model in models)))
    evaluator = cast(AnyEvaluator, MixedEvaluator([model.evaluator for model in models]))
    sharding = NamedSharding(first.net.mesh, PartitionSpec())  # each device holds all parameters
    parameters = parameter_paths.flatten(nnx.to_pure_dict(state))
    parameters = {name: jax.device_put(value, sharding) for name, value in parameters.items()}
    net = dataclasses.replace(
        first.net,
        task=task,
        graphdef=graphdef,
        graphdef_for=lambda shape: graphdef,
        abstract={
            name: jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=sharding)
            for name, value in parameters.items()
        },
        roles=read_roles(mixed),
        adapters=None,
        uncompressed=None,
    )
    return Model(first.run, task, evaluator, net, parameters, min(model.rows for model in models))
