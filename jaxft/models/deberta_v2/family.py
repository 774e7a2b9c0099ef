"""Declares DeBERTa-v2, with which DeBERTa-v3 and mDeBERTa share a model_type: network, checkpoints, heads."""

from jaxft.models.deberta_v2 import config, weights
from jaxft.models.deberta_v2.network import DebertaV2
from jaxft.models.encoder_family import describe_new_encoder
from jaxft.models.family import Family

# DeBERTa-v3-base.
_V3_BASE = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "position_biased_input": False,
    "relative_attention": True,
    "position_buckets": 256,
    "pos_att_type": ["c2p", "p2c"],
    "share_att_key": True,
    "norm_rel_ebd": "layer_norm",
}

FAMILY = Family(
    display_name=config.DebertaV2Config.display_name,
    network=DebertaV2,
    config_class=config.DebertaV2Config,
    table=weights.TABLE,
    architecture="DebertaV2Model",
    heads=weights.HEADS,
    is_causal=False,
    has_pooler=False,
    new_model=describe_new_encoder(config.DebertaV2Config, _V3_BASE, name="deberta-v3"),
)
