"""Loads the base of a run with adapters: the frozen weights that its checkpoints leave out, and name by a content hash.

They are loaded again from `config.model.checkpoint` when a run resumes, is evaluated, predicts or is exported.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import NamedTuple

import jax

from jaxft.config.sections import RUN, Settings
from jaxft.errors import UserError
from jaxft.hub.tensors import checksum_weights
from jaxft.models.pretrained_model import PretrainedModel
from jaxft.models.registry import read_model_config
from jaxft.parallel import processes
from jaxft.tasks.base import Log
from jaxft.tasks.registry import make_data
from jaxft.training.log.waits import announced
from jaxft.training.network import Network, load_parameters
from jaxft.training.run_folder.base_run import open_base_run
from jaxft.training.run_folder.tree_digest import digest_tree


class FrozenBase(NamedTuple):
    """The frozen weights of a run that its checkpoints leave out.

    Attributes:
      parameters: the parameters by path, stacked; none if checkpoints hold all.
      digest: their content hash; None if checkpoints hold all parameters.
    """

    parameters: dict[str, jax.Array]
    digest: str | None


def select_base(net: Network, parameters: Mapping[str, jax.Array]) -> FrozenBase:
    """Returns the base among all parameters of a model, stacked."""
    base = {name: parameters[name] for name in net.base_names}
    return FrozenBase(base, _digest(base) if base else None)


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
        parameters, _ = load_parameters(net, config, base_model)
        return select_base(net, parameters)


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
