"""A config.json, or sizes of a new model, outside of what a model can have is refused with field, value and range."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxft.errors import UserError
from jaxft.models import new_model
from jaxft.models.registry import FAMILIES
from jaxft.training.settings import settings_from_config

JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**30), 10**30),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=1),
)
KEYS = [
    (family, key)
    for family in FAMILIES
    for key in {
        **FAMILIES[family].config_class().to_hf(),
        **dict.fromkeys(getattr(FAMILIES[family].config_class, "hf_keys", {}).values()),
    }
    if key != "model_type"
]


@settings(max_examples=400)
@given(st.sampled_from(KEYS), JUNK)
def test_any_value_of_a_field_is_read_or_refused_by_name(place, value):
    family, key = place
    try:
        config = FAMILIES[family].config_class.from_hf({"model_type": family, key: value})
    except UserError as error:
        assert key in str(error) and len(str(error)) < 300
    else:
        assert FAMILIES[family].config_class.from_hf(json.loads(json.dumps(config.to_hf()))) == config
        numbers = [number for number in vars(config).values() if isinstance(number, int | float)]
        assert all(0 <= number <= 2**30 and math.isfinite(number) for number in numbers)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_attention_heads": 0}, "num_attention_heads is 0; expected a whole number from 1 to 4,096"),
        ({"num_hidden_layers": -4}, "num_hidden_layers is -4; expected a whole number from 1 to 1,000"),
        (
            {"num_hidden_layers": 10**9},
            "num_hidden_layers is 1000000000; expected a whole number from 1 to 1,000",
        ),
        ({"hidden_size": "768"}, 'hidden_size is "768"; expected a whole number'),
        (
            {"hidden_dropout_prob": math.nan},
            "hidden_dropout_prob is NaN; expected a rate of 0 or more and below 1",
        ),
        ({"layer_norm_eps": 0}, "layer_norm_eps is 0; expected a number above 0"),
    ],
)
def test_a_value_that_cannot_be_is_named_with_what_can(change, message):
    with pytest.raises(UserError, match=message):
        FAMILIES["bert"].config_class.from_hf({"model_type": "bert"} | change)


def test_transformers_knows_every_field_of_a_config():
    transformers = pytest.importorskip("transformers")
    for model_type, family in FAMILIES.items():
        fields = family.config_class().to_hf()
        theirs = transformers.AutoConfig.for_model(model_type).to_dict()
        n_inner = {"n_inner": 4 * theirs["n_embd"]} if "n_inner" in theirs else {}
        assert {key: (theirs | n_inner)[key] for key in fields} == fields


def test_sizes_of_a_new_model_are_held_to_the_same():
    def describe(**sizes):
        values = {"task": "causal_lm", "model.checkpoint": "new:gpt2", "model.sizes": tuple(sizes.items())}
        return new_model.describe_new_model(settings_from_config(values))

    assert describe(n_layer=3)["n_layer"] == 3
    with pytest.raises(
        UserError, match="^config.model.sizes: n_layer is 1000000000; expected a whole number from 1"
    ):
        describe(n_layer=10**9)
    with pytest.raises(UserError, match="^config.model.sizes: attn_pdrop is 1.5; expected a rate"):
        describe(attn_pdrop=1.5)


# The fields that all checkpoints of DeBERTa-v2 and -v3 share.
_DEBERTA = {
    "relative_attention": True,
    "max_relative_positions": -1,
    "pos_att_type": "p2c|c2p",
    "share_att_key": True,
    "norm_rel_ebd": "layer_norm",
    "position_biased_input": False,
    "type_vocab_size": 0,
    "pooler_dropout": 0,
}


def test_the_fields_of_real_checkpoints_pass():
    """The published sizes of several families, from the smallest to the largest."""
    for family, fields in (
        (
            "bert",
            {"hidden_size": 128, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 512},
        ),
        ("bert", {"hidden_size": 1024, "num_attention_heads": 16, "num_hidden_layers": 24}),
        ("gpt2", {"n_embd": 1600, "n_head": 25, "n_layer": 48, "n_inner": None}),
        (
            "xlm-roberta",
            {"hidden_size": 4096, "num_attention_heads": 32, "num_hidden_layers": 48, "pad_token_id": 1},
        ),
        ("distilbert", {"dim": 768, "n_heads": 12, "n_layers": 6, "sinusoidal_pos_embds": True}),
        ("electra", {"embedding_size": 128, "hidden_size": 256, "num_attention_heads": 4}),
        (
            "modernbert",
            {
                "hidden_size": 1024,
                "num_attention_heads": 16,
                "num_hidden_layers": 28,
                "intermediate_size": 2624,
            },
        ),
        ("deberta-v2", _DEBERTA | {"position_buckets": 256, "conv_kernel_size": 3, "conv_act": "gelu"}),
        (
            "deberta-v2",
            _DEBERTA | {"position_buckets": 256, "vocab_size": 251000, "pooler_hidden_size": 1536},
        ),
    ):
        FAMILIES[family].config_class.from_hf(json.loads(json.dumps({"model_type": family} | fields)))
