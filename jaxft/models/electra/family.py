"""Declares ELECTRA: its network, its checkpoints, its heads, and what it can do."""

from jaxft.models.electra import config, weights
from jaxft.models.electra.network import Electra
from jaxft.models.encoder_family import describe_new_encoder
from jaxft.models.family import Family

# ELECTRA-base. The defaults are ELECTRA-small's.
_BASE = {
    "embedding_size": 768,
    "hidden_size": 768,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
}

FAMILY = Family(
    display_name="ELECTRA",
    network=Electra,
    config_class=config.ElectraConfig,
    table=weights.TABLE,
    architecture="ElectraModel",
    heads=weights.HEADS,
    is_causal=False,
    has_pooler=False,
    has_past_keys=True,
    new_model=describe_new_encoder(config.ElectraConfig, _BASE),
)
