"""Turns the parameters of adapters into the tensors of PEFT's files, and back, by one table of each method.

PEFT has tensors for each module of each layer. Here a parameter is a stack of layers, whose ranks are padded with zeros
to the largest, and a fused module, such as GPT-2's `c_attn`, is several linear layers.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxft.adapters.base import Target
from jaxft.errors import UserError


@dataclasses.dataclass(frozen=True)
class AdapterTensor:
    """A parameter of a linear layer's adapter, and PEFT's tensor of it.

    Attributes:
      parameter: the name of the parameter.
      suffix: PEFT's name of the tensor, after that of the module.
      axes: what the dimensions of PEFT's tensor are: "in", "out", "rank" or, for one of size 1, "one". The parameter
        has them in the opposite order, without those of size 1.
      reads_input: True if there is a tensor only for targets whose input is scaled, False if only for others; None if
        for all.
    """

    parameter: str
    suffix: str
    axes: tuple[str, ...]
    reads_input: bool | None = None

    @property
    def own_axes(self) -> tuple[str, ...]:
        """Returns the dimensions of the parameter in one layer."""
        return tuple(axis for axis in reversed(self.axes) if axis != "one")

    def to_peft(self, chunks: Sequence[np.ndarray], rank: int) -> np.ndarray:
        """Returns PEFT's tensor for the parameter's value in one layer, in each of the linear layers of a module."""
        value = chunks[0] if len(chunks) == 1 else np.concatenate(chunks, axis=self.own_axes.index("out"))
        if "rank" in self.own_axes:
            value = value.take(range(rank), axis=self.own_axes.index("rank"))
        shape = iter(value.T.shape)
        return value.T.reshape([1 if axis == "one" else next(shape) for axis in self.axes])

    def from_peft(
        self, tensor: np.ndarray, shape: Sequence[int], rank: int, count: int, where: str
    ) -> list[np.ndarray]:
        """Returns the parameter's value in one layer, `shape`, for each of `count` linear layers; see `to_peft`.

        Raises:
          UserError: the tensor has another shape. `where` names it.
        """
        sizes = dict(zip(self.own_axes, shape, strict=True)) | {"one": 1}
        padding = sizes.get("rank", rank) - rank
        sizes |= {"rank": rank, "out": sizes.get("out", 0) * count}
        expected = tuple(sizes[axis] for axis in self.axes)
        if tensor.shape != expected:
            raise UserError(
                f"{where} has the shape {tuple(tensor.shape)}, but the model and the adapter's config give it "
                f"{expected}; was the adapter trained on another model?"
            )
        value = tensor.reshape([sizes[axis] for axis in self.axes if axis != "one"]).T
        value = np.pad(value, [(0, padding if axis == "rank" else 0) for axis in self.own_axes])
        if "out" not in self.own_axes:
            return [value] * count
        return np.split(value, count, axis=self.own_axes.index("out"))


# The tensors of each method, by PEFT's name of it.
LORA = (
    AdapterTensor("a", "lora_A.weight", ("rank", "in")),
    AdapterTensor("b", "lora_B.weight", ("out", "rank")),
)
DORA = (*LORA, AdapterTensor("magnitude", "lora_magnitude_vector", ("out",)))
ADALORA = (
    AdapterTensor("a", "lora_A", ("rank", "in")),
    AdapterTensor("values", "lora_E", ("rank", "one")),
    AdapterTensor("b", "lora_B", ("out", "rank")),
)
# The first values of PiSSA and OLoRA, by the names of LoRA's tensors.
START = (
    AdapterTensor("start_a", "lora_A.weight", ("rank", "in")),
    AdapterTensor("start_b", "lora_B.weight", ("out", "rank")),
)
IA3 = (
    AdapterTensor("factors", "ia3_l", ("out", "one"), reads_input=False),
    AdapterTensor("factors", "ia3_l", ("one", "in"), reads_input=True),
)


# PEFT has no bottlenecks: `export/adapter_loader.py` reads these. A module is a single linear layer.
BOTTLENECK = (
    AdapterTensor("down", "bottleneck_down.weight", ("rank", "out")),
    AdapterTensor("down_bias", "bottleneck_down.bias", ("rank",)),
    AdapterTensor("up", "bottleneck_up.weight", ("out", "rank")),
    AdapterTensor("up_bias", "bottleneck_up.bias", ("out",)),
)
TENSORS: dict[str, Sequence[AdapterTensor]] = {
    "lora": LORA,
    "adalora": ADALORA,
    "ia3": IA3,
    "bottleneck": BOTTLENECK,
    "bitfit": (),
    "prefix": (),  # the tensor of these two is of no module: see virtual_tokens.py
    "prompt": (),
}


def tensors_of(method: str, *, use_dora: bool = False) -> Sequence[AdapterTensor]:
    """Returns the tensors of a method."""
    return DORA if use_dora else TENSORS[method]


def drop_zero_ranks(
    tensors: dict[str, np.ndarray], targets: Sequence[Target], count: int
) -> dict[str, list[bool]]:
    """Removes the ranks of AdaLoRA whose value is 0 from PEFT's tensors, and returns its `rank_pattern`.

    A module keeps at least one rank.

    Args:
      tensors: the tensors by name, which this changes.
      targets: what has adapters.
      count: the rank at the start.
    """
    pattern: dict[str, list[bool]] = {}
    for module in (name for target in targets for name in target.adapted):
        is_kept = tensors[f"{module}.lora_E"][:, 0] != 0
        is_kept[0] |= not is_kept.any()
        for entry in ADALORA:
            name = f"{module}.{entry.suffix}"
            tensors[name] = tensors[name].compress(is_kept, axis=entry.axes.index("rank"))
        pattern[f"{module}.lora_E"] = [*is_kept.tolist(), *[False] * (count - len(is_kept))]
    return pattern


def to_peft(
    table: Sequence[AdapterTensor], targets: Sequence[Target], parameters: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Returns PEFT's tensors by name, such as "bert.encoder.layer.0.attention.self.query.lora_A.weight".

    Args:
      table: the tensors of the method.
      targets: what has adapters.
      parameters: the model's parameters by path.
    """
    tensors: dict[str, np.ndarray] = {}
    for target, entry, paths in _pair(table, targets, parameters):
        values = [np.asarray(parameters[path]) for path in paths]
        for layer, (module, rank) in enumerate(zip(target.modules, target.ranks, strict=True)):
            if rank:
                chunks = [value[layer] if target.is_stacked else value for value in values]
                tensors[f"{module}.{entry.suffix}"] = entry.to_peft(chunks, rank)
    return tensors


def from_peft(
    table: Sequence[AdapterTensor],
    targets: Sequence[Target],
    parameters: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
    source: str,
) -> dict[str, np.ndarray]:
    """Returns the parameters by path that PEFT's tensors hold: the inverse of `to_peft`.

    Layers without an adapter get zeros, which nothing reads.

    Args:
      table: the tensors of the method.
      targets: what has adapters.
      parameters: the model's parameters by path, perhaps in the abstract.
      tensors: the adapter's tensors by name, which may also be others.
      source: the adapter's name in errors.

    Raises:
      UserError: a tensor is missing, or has another shape.
    """
    loaded: dict[str, np.ndarray] = {}
    for target, entry, paths in _pair(table, targets, parameters):
        values = [np.zeros(parameters[path].shape, parameters[path].dtype) for path in paths]
        stacks = values if target.is_stacked else [value[None] for value in values]
        for layer, (module, rank) in enumerate(zip(target.modules, target.ranks, strict=True)):
            if not rank:
                continue
            name = f"{module}.{entry.suffix}"
            if name not in tensors:
                raise UserError(
                    f"{source} has no tensor {name!r}, although its config gives the module an adapter; it has "
                    f"{', '.join(map(repr, [*tensors][:3]))} and others"
                )
            chunks = entry.from_peft(
                tensors[name],
                stacks[0].shape[1:],
                rank,
                len(target.linears),
                f"{source}: the tensor {name!r}",
            )
            for stack, chunk in zip(stacks, chunks, strict=False):  # a shared parameter is there once
                stack[layer] = chunk
        loaded |= dict(zip(paths, values, strict=True))
    return loaded


def list_names(table: Sequence[AdapterTensor], targets: Sequence[Target]) -> set[str]:
    """Returns the names of PEFT's tensors of the adapters of `targets`."""
    return {f"{module}.{entry.suffix}" for entry in table for target in targets for module in target.adapted}


def _pair(
    table: Sequence[AdapterTensor], targets: Sequence[Target], parameters: Mapping[str, Any]
) -> Iterator[tuple[Target, AdapterTensor, list[str]]]:
    """Yields each target with each of its tensors, and the paths of the parameter in the target's linear layers.

    A parameter that these layers share is at the path of one of them.
    """
    for target in targets:
        for entry in table:
            if entry.reads_input in (None, target.reads_input):
                paths = [f"{linear}/adapter/{entry.parameter}" for linear in target.linears]
                if paths := [path for path in paths if path in parameters]:
                    yield target, entry, paths
