"""Tensors of checkpoints on the hub have several names, and belong to several heads: all are understood or left out."""

import numpy as np
import pytest
import transformers

from jaxft.hub.weights import load_weights
from jaxft.layers.heads.kinds import HeadKind
from jaxft.layers.runtime import PLAIN_RUNTIME
from jaxft.models.registry import FAMILIES
from tests.models import torch_parity

ENCODERS = [name for name, family in FAMILIES.items() if HeadKind.QUESTION in family.heads]
# Classes of pretraining for which there is no kind of head.
PRETRAINING = {
    "bert": "BertForPreTraining",
    "electra": "ElectraForPreTraining",
}


def load(name, kind, tensors, *, new=()):
    """Returns (parameters, report) of a model with the kind of head."""
    config = torch_parity.example_shape(name, seed=1)
    _, _, abstract = torch_parity.make_abstract(config, kind, PLAIN_RUNTIME)
    return load_weights(FAMILIES[name].table_with_head(kind, config), tensors, abstract, new=new)


def tensors_of(name, kind):
    model = torch_parity.make_torch(torch_parity.example_shape(name, seed=1), kind, seed=1)
    return {tensor: value.numpy() for tensor, value in model.state_dict().items()}, model.base_model_prefix


@pytest.mark.parametrize("name", ENCODERS)
def test_names_of_early_versions_and_of_backbones_saved_alone_are_understood(name):
    tensors, prefix = tensors_of(name, HeadKind.TOKEN)
    expected, _ = load(name, HeadKind.TOKEN, tensors)

    def spelt(tensor):
        tensor = tensor.removeprefix(f"{prefix}.")
        return tensor.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        )

    odd = {spelt(tensor): value for tensor, value in tensors.items()}
    constant = {"embeddings.position_ids": np.arange(13)[None]}
    if name == "modernbert":  # its first version had today's names, and no table of positions
        constant = {}
    else:
        assert any(tensor.endswith("LayerNorm.gamma") for tensor in odd)
    parameters, report = load(name, HeadKind.TOKEN, odd | constant)
    assert report.ignored == list(constant)
    assert all(np.array_equal(parameters[path], value) for path, value in expected.items())


@pytest.mark.parametrize("name", ENCODERS)
def test_heads_of_other_tasks_and_the_pooler_are_left_out(name):
    """The backbone is the checkpoint's, whichever class it was saved from."""
    family, config = FAMILIES[name], torch_parity.example_shape(name, seed=1)
    for kind in family.heads:
        tensors, prefix = tensors_of(name, kind) if kind is not HeadKind.SHARED else pretraining(config)
        _, report = load(name, HeadKind.TOKEN, tensors, new=["^head/"])
        assert not any(
            tensor.startswith(f"{prefix}.") and ".pooler." not in tensor for tensor in report.ignored
        )
        assert len(report.loaded) + len(report.ignored) == len(tensors)
        assert {"head/bias", "head/kernel"} <= set(report.new)
        assert all(path.startswith("head/") for path in report.new)


def pretraining(config):
    """Returns the tensors of the family's class for pretraining, or of its backbone with all that it has."""
    name = PRETRAINING.get(config.model_type)
    hf_config = transformers.AutoConfig.for_model(**{"pad_token_id": 0} | config.to_hf())
    if name is None:
        model = transformers.AutoModel.from_config(hf_config)
        tensors = {f"{model.base_model_prefix}.{tensor}": x for tensor, x in model.state_dict().items()}
    else:
        model = getattr(transformers, name)(hf_config)
        tensors = model.state_dict()
    return {tensor: value.numpy() for tensor, value in tensors.items()}, model.base_model_prefix
