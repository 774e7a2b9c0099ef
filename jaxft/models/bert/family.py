"""Declares BERT: its network, its checkpoints, its heads, and what it can do."""

from jaxft.models.bert import config, weights
from jaxft.models.bert.network import Bert
from jaxft.models.encoder_family import describe_new_encoder
from jaxft.models.family import Family

FAMILY = Family(
    display_name="BERT",
    network=Bert,
    config_class=config.BertConfig,
    table=weights.TABLE,
    architecture="BertModel",
    heads=weights.HEADS,
    is_causal=False,
    has_pooler=True,
    has_past_keys=True,
    new_model=describe_new_encoder(config.BertConfig, {}),
)
