"""A ModernBERT's config.json is read as transformers reads it: the form of hub checkpoints, and today's."""

import re

import pytest
import transformers

from jaxft.errors import UserError
from jaxft.layers.attention.interface import EVERYTHING, Visibility
from jaxft.models.modernbert.config import GLOBAL, LOCAL, ModernBertConfig

# The fields of answerdotai/ModernBERT-base that say what layers there are, and other forms of the same and of others.
HUB = {
    "global_attn_every_n_layers": 3,
    "global_rope_theta": 160000.0,
    "local_attention": 128,
    "local_rope_theta": 10000.0,
    "num_hidden_layers": 22,
    "position_embedding_type": "absolute",
}
ROPES = {
    GLOBAL: {"rope_type": "default", "rope_theta": 5000.0},
    LOCAL: {"rope_type": "default", "rope_theta": 70.0},
}
FORMS = [
    {},
    HUB,
    HUB | {"global_attn_every_n_layers": 1},
    HUB | {"num_hidden_layers": 2, "local_rope_theta": 160000},
    {"num_hidden_layers": 5, "layer_types": [LOCAL, GLOBAL, GLOBAL, LOCAL, GLOBAL], "rope_parameters": ROPES},
    HUB | {"rope_parameters": ROPES, "layer_types": [GLOBAL, LOCAL] * 11},
    {"rope_parameters": {GLOBAL: {"rope_theta": 3.0}}, "local_rope_theta": 4.0, "rope_scaling": None},
    {"local_attention": 7, "classifier_pooling": "mean", "norm_bias": True, "decoder_bias": False},
]


@pytest.mark.parametrize("fields", FORMS)
def test_layers_and_thetas_are_transformers(fields):
    config = ModernBertConfig.from_hf({"model_type": "modernbert"} | fields)
    theirs = transformers.AutoConfig.for_model("modernbert", **fields)
    assert list(config.type_of_each_layer) == theirs.layer_types
    assert config.thetas == {name: rope["rope_theta"] for name, rope in theirs.rope_parameters.items()}
    window = Visibility(window=theirs.sliding_window)
    assert config.visibilities == tuple(
        window if name == LOCAL else EVERYTHING for name in theirs.layer_types
    )
    ours, written = config.to_hf(), theirs.to_dict()
    assert {key: written[key] for key in ours} == ours
    assert ModernBertConfig.from_hf(ours) == ModernBertConfig.from_hf(written) == config


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rope_scaling": {"type": "linear", "factor": 2}}, "rope_type is \"linear\", but only 'default' is"),
        ({"rope_parameters": {GLOBAL: {"rope_type": "yarn"}}}, 'rope_type is "yarn", but only'),
        ({"rope_parameters": [1]}, "rope_parameters is [1]; expected values by type of layer"),
        ({"global_rope_theta": -1}, "global_rope_theta is -1; expected a number above 0"),
        ({"layer_types": [GLOBAL]}, "expected 'full_attention' or 'sliding_attention' for each of 22 layers"),
        ({"layer_types": ["chunked"] * 22}, 'layer_types is ["chunked", '),
        ({"classifier_pooling": "max"}, "classifier_pooling is \"max\"; expected 'cls' or 'mean'"),
        ({"hidden_size": 36}, "give heads of width 3; expected an even width"),
        ({"is_causal": True}, "is_causal is True, but only False is supported"),
    ],
)
def test_what_is_not_supported_is_named(fields, message):
    with pytest.raises(UserError, match=re.escape(message)):
        ModernBertConfig.from_hf({"model_type": "modernbert"} | fields)
