"""Declares DistilBERT: its network, its checkpoints, its heads, and what it can do."""

from jaxft.models.distilbert import config, weights
from jaxft.models.distilbert.network import DistilBert
from jaxft.models.encoder_family import describe_new_encoder
from jaxft.models.family import Family

FAMILY = Family(
    display_name="DistilBERT",
    network=DistilBert,
    config_class=config.DistilBertConfig,
    table=weights.TABLE,
    architecture="DistilBertModel",
    heads=weights.HEADS,
    is_causal=False,
    has_pooler=False,
    new_model=describe_new_encoder(config.DistilBertConfig, {}),
)
