"""Puts the heads of several tasks on one backbone."""

from collections.abc import Mapping
from typing import Any, Protocol, cast

import jax
import jax.numpy as jnp
from flax import nnx

from jaxft.layers.dropout import DropoutSeed
from jaxft.layers.heads.backbone import Backbone, PooledBackbone
from jaxft.layers.inputs import Inputs
from jaxft.layers.parameters import Kind, Role, make_parameter


class SharedBackbone:
    """Represents one backbone in the models of several tasks.

    It computes hidden states once for the same inputs and dropout, and returns them to every model that calls it.
    """

    def __init__(self, backbone: Backbone):
        self.backbone = backbone
        self.config, self.runtime = backbone.config, backbone.runtime
        self._calls: list[
            tuple[tuple[jax.Array, ...], jax.Array]
        ] = []  # the arrays and the result of each call

    def __call__(self, inputs: Inputs, dropout: DropoutSeed | None = None) -> jax.Array:
        """Returns the backbone's hidden states `[R, L, D]`."""
        arrays = (*inputs, *(dropout or ()))
        for known, states in self._calls:
            # Identities are compared, because traced arrays have no values.
            if len(known) == len(arrays) and all(a is b for a, b in zip(known, arrays, strict=True)):
                return states
        states = self.backbone(inputs, dropout)
        self._calls.append((arrays, states))
        return states

    def pool(self, x: jax.Array) -> jax.Array:
        """Applies the backbone's pooler to the hidden states of first tokens, `[..., D] -> [..., D]`."""
        return cast(PooledBackbone, self.backbone).pool(x)


class HeadedModel(Protocol):
    """The model of one task: a head over a backbone."""

    backbone: Backbone

    @property
    def head(self) -> nnx.Module:
        """The layers over the backbone."""


class MultiHead(nnx.Module):
    """A backbone with the heads of several tasks, each at `head/NAME`. `task_model` returns a task's model.

    Args:
      models: the model of each task, with `backbone` and `head`. Their backbones have the same architecture. The first
        backbone with a pooler is kept for all tasks; if none has a pooler, the first backbone.
      uncertainty: whether to learn a log variance for each task, float32 `[T]` at `head/uncertainty`.
    """

    def __init__(self, models: Mapping[str, HeadedModel], *, uncertainty: bool):
        backbones = [model.backbone for model in models.values()]
        self.backbone = next(
            (backbone for backbone in backbones if hasattr(backbone, "pooler")), backbones[0]
        )
        self.head: nnx.Dict[Any] = nnx.Dict({name: model.head for name, model in models.items()})
        if uncertainty:
            log_variances = jnp.zeros(len(models), jnp.float32)
            self.head["uncertainty"] = make_parameter(log_variances, Role(Kind.BIAS))
        for model in models.values():
            model.backbone = self.backbone
        self.task_models: nnx.Dict[Any] = nnx.Dict(models)

    def task_model(self, name: str, backbone: SharedBackbone) -> nnx.Module:
        """Returns the model of one task with `backbone` as its backbone.

        It changes that model in place. So call it only in a traced function, whose modules were merged there.
        """
        model = self.task_models[name]
        model.backbone = backbone
        return model
