"""Declares ERNIE: its network, its checkpoints, its heads, and what it can do."""

from jaxft.models.encoder_family import describe_new_encoder
from jaxft.models.ernie import config, weights
from jaxft.models.ernie.network import Ernie
from jaxft.models.family import Family

FAMILY = Family(
    display_name="ERNIE",
    network=Ernie,
    config_class=config.ErnieConfig,
    table=weights.TABLE,
    architecture="ErnieModel",
    heads=weights.HEADS,
    is_causal=False,
    has_pooler=True,
    new_model=describe_new_encoder(config.ErnieConfig, {}),
)
