"""Declares GPT-2: its network, its checkpoints, its heads, and what it can do."""

from jaxft.layers.heads.kinds import HeadKind
from jaxft.models.family import Family, Head
from jaxft.models.gpt2 import config, weights
from jaxft.models.gpt2.network import GPT2

FAMILY = Family(
    display_name="GPT-2",
    network=GPT2,
    config_class=config.GPT2Config,
    config=config,
    table=weights.TABLE,
    architecture="GPT2Model",
    heads={
        HeadKind.TOKEN: Head("GPT2ForTokenClassification"),
        HeadKind.SEQUENCE: Head("GPT2ForSequenceClassification", pool="last", has_bias=False),
        HeadKind.CAUSAL_LM: Head("GPT2LMHeadModel"),
    },
    is_causal=True,
    has_token_types=False,
    has_pooler=False,
)
