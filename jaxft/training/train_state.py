"""Defines the state of training, in the form that the loop holds and in the form that checkpoints hold.

In checkpoints, and wherever weights are kept, each parameter of a backbone's layers is one array, a stack. On a CPU the
loop holds a separate array for each layer, because an unrolled step would copy each layer out of its stack. Only this
module and `layers.transformer.layer_stacks` know of both.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from jaxft.layers.runtime import Runtime
from jaxft.layers.transformer.layer_stacks import map_parameter_dicts, stack, unstack

# Parameters by path: {"backbone/embeddings/word/embedding": array, ...}. The values for layers may be tuples of arrays.
Parameters = dict[str, Any]


class TrainState(NamedTuple):
    """The state of training that a step reads and writes.

    Attributes:
      step: the number of finished optimizer steps, an int32 scalar.
      trainable: the trained parameters, by path.
      frozen: the other parameters, and statistics that do not change, by path.
      model_state: the other statistics, such as running means, by path; {} for most models.
      opt_state: the state of the optimizer.
    """

    step: jax.Array
    trainable: Parameters
    frozen: Parameters
    model_state: Parameters
    opt_state: Any


class SavedState(NamedTuple):
    """A train state as checkpoints hold it: layers are stacked, and `model_state` is a part of `frozen`."""

    step: jax.Array | jax.ShapeDtypeStruct
    trainable: Parameters
    frozen: Parameters
    opt_state: Any


@dataclasses.dataclass(frozen=True)
class StateForm:
    """The form in which the loop of a run holds its state.

    Attributes:
      unstacks_layers: whether each layer has arrays of its own.
      statistics: the paths in `model_state`.
    """

    unstacks_layers: bool
    statistics: tuple[str, ...] = ()

    def arrange(self, parameters: dict[str, jax.Array]) -> Parameters:
        """Returns parameters in the form of the loop."""
        return dict(unstack(parameters)) if self.unstacks_layers else parameters

    def from_saved(self, saved: SavedState) -> TrainState:
        """Returns a saved state in the form of the loop."""
        arranged = map_parameter_dicts(unstack, saved) if self.unstacks_layers else saved
        frozen = dict(arranged.frozen)
        model_state = {name: frozen.pop(name) for name in self.statistics}
        return TrainState(**(arranged._asdict() | {"frozen": frozen, "model_state": model_state}))


def choose_form(runtime: Runtime, mesh: Mesh, statistics: Iterable[str] = ()) -> StateForm:
    """Returns the form that is quicker on these devices, for a model with `statistics` that change.

    Layers are separate on a single device only, because `parallel.mesh.with_shardings` splits only stacks.
    """
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    return StateForm(runtime.unroll and mesh.size == 1 and on_cpu, tuple(statistics))


def to_saved(state: TrainState) -> SavedState:
    """Returns a state in the form of checkpoints."""
    saved = SavedState(state.step, state.trainable, state.frozen | state.model_state, state.opt_state)
    return map_parameter_dicts(stack, saved)


def to_kept(parameters: Parameters) -> dict[str, jax.Array]:
    """Returns parameters of the loop in the form in which weights are kept."""
    return stack(parameters)
