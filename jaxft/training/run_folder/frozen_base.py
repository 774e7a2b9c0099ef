"""Loads the base of a run with adapters: the frozen weights that its checkpoints leave out, and name by a content hash.

They are loaded again from `config.model.checkpoint` when a run resumes, is evaluated, predicts or is exported. The hash
is that of the float32 weights, which may then be compressed (`config.adapter.base_dtype`).
"""

import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jaxft.config.sections import RUN, Settings
from jaxft.errors import UserError
from jaxft.hub.tensors import checksum_weights
from jaxft.layers.linear import compress_matrix, expand_matrix
from jaxft.models.pretrained_model import PretrainedModel
from jaxft.models.registry import read_model_config
from jaxft.parallel import processes
from jaxft.tasks.base import Log
from jaxft.tasks.registry import make_data
from jaxft.training.log.waits import announced
from jaxft.training.network import Network, load_parameters
from jaxft.training.programs import compile_once
from jaxft.training.run_folder.base_run import open_base_run
from jaxft.training.run_folder.tree_digest import digest_tree


class FrozenBase(NamedTuple):
    """The frozen weights of a run that its checkpoints leave out.

    Attributes:
      parameters: the parameters by path, stacked, in the dtypes of the network; none if checkpoints hold all.
      digest: their content hash; None if checkpoints hold all parameters.
    """

    parameters: dict[str, jax.Array]
    digest: str | None


def select_base(net: Network, parameters: Mapping[str, jax.Array], log: Log) -> FrozenBase:
    """Returns the base among all float32 parameters of a model, stacked; `log` prints how exact it is."""
    base = {name: parameters[name] for name in net.original.base_names}
    return FrozenBase(_compress(net, base, log), _digest(base) if base else None)


def load_base(net: Network, config: Settings, base_model: PretrainedModel, log: Log) -> FrozenBase:
    """Loads the base of a run from the model that the run starts from.

    Raises:
      UserError: the model cannot be read, or is of another family than the run's.
    """
    if not net.base_names:
        return FrozenBase({}, None)
    model_type = read_model_config(base_model.hf_config).model_type
    if model_type != net.model_config.model_type:  # weights of another family have no names here
        raise UserError(
            f"checkpoint {base_model.address!r}: found a {model_type}, but the run's adapters are for a "
            f"{net.model_config.model_type}; put back the checkpoint that they were trained on"
        )
    assert_same_weights(config, base_model)
    with announced(f"loading the base, {config.model.checkpoint}", log):
        parameters, _ = load_parameters(net.original, config, base_model)
        return select_base(net, parameters, log)


def open_base_model(config: Settings, log: Log) -> PretrainedModel:
    """Opens the model that a finished run has started from. Raises `UserError` if it is no longer there."""
    try:
        base_model = make_data(config).open_model(())
    except UserError as error:
        raise UserError(
            "the run holds adapters alone, and its base cannot be opened; put it back (a relative path begins in the "
            f"folder where the command starts): {error}"
        ) from None
    return open_base_run(base_model, log) if base_model.address.startswith(RUN) else base_model


def assert_same_weights(config: Settings, base_model: PretrainedModel) -> None:
    """Raises `UserError` if processes would load different weights."""
    if config.model.init == "pretrained" and processes.count() > 1:
        assert base_model.folder is not None  # only new models have none
        reader = base_model.reader
        checksum = checksum_weights(base_model.folder) if reader is None else reader.checksum()
        processes.assert_same({"pretrained weights": checksum})


def _digest(parameters: Mapping[str, jax.Array]) -> str:
    """Returns the content hash of parameters by path: the SHA-256 of their digests."""
    digests = dict(zip(parameters, digest_tree(list(parameters.values())), strict=True))
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()


def _compress(net: Network, base: dict[str, jax.Array], log: Log) -> dict[str, jax.Array]:
    """Returns the base in the dtypes of the network, and logs the error of its matrices."""
    compressed: dict[str, jax.Array] = {}
    errors: dict[str, jax.Array] = {}
    for name, value in base.items():
        dtype = net.abstract[name].dtype
        if dtype == value.dtype:
            compressed[name] = value
            continue
        names = [path for path in (name, f"{name}_scale") if path in net.abstract]
        shardings = tuple(net.abstract[path].sharding for path in names)
        arrays = _run(net, functools.partial(_round, dtype=dtype), shardings, value)
        # In one program with the rounding XLA would compute the difference of unrounded values.
        errors[name] = _run(net, _measure_error, NamedSharding(net.mesh, PartitionSpec()), value, *arrays)
        compressed |= zip(names, arrays, strict=True)
    if errors:
        assert net.adapters is not None  # models without have no base
        log(_describe_errors(net.adapters.settings.base_dtype, jax.device_get(errors)))
    return compressed


def _run(net: Network, function: Callable[..., Any], out_shardings: Any, *arguments: jax.Array) -> Any:
    """Compiles a function of arrays, and returns its results."""
    jitted = jax.jit(function, out_shardings=out_shardings, keep_unused=True)
    return compile_once(jitted.lower(*arguments), net.mesh)(*arguments)


def _round(matrix: jax.Array, dtype: jnp.dtype) -> tuple[jax.Array, ...]:
    """Returns a matrix, or a stack of matrices, in `dtype`, with its scale if it has one."""
    rounded, scale = compress_matrix(matrix, dtype)
    return (rounded,) if scale is None else (rounded, scale)


def _measure_error(matrix: jax.Array, rounded: jax.Array, scale: jax.Array | None = None) -> jax.Array:
    """Returns the relative error of a rounded matrix in the root mean square, or one for each of a stack."""
    error, norm = (
        jnp.linalg.norm(values, axis=(-2, -1)) for values in (expand_matrix(rounded, scale) - matrix, matrix)
    )
    return error / jnp.where(norm > 0, norm, 1.0)


def _describe_errors(dtype: str, errors: Mapping[str, np.ndarray]) -> str:
    """Returns a line for the log about relative errors, by path: a number, or one for each layer of a stack."""
    values = np.concatenate([np.ravel(value) for value in errors.values()])
    worst = max(errors, key=lambda name: errors[name].max())
    layer = f", layer {np.argmax(errors[worst])}" if errors[worst].ndim else ""
    return (
        f"the base in {dtype}: {values.size} matrices, whose values have a relative error of {values.mean():.2%} on "
        f"average and {values.max():.2%} at most ({worst}{layer}), in the root mean square"
    )
