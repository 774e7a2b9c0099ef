"""Declares ERNIE: its network, its checkpoints, its heads, and what it can do."""

from jaxft.layers.heads.kinds import HeadKind
from jaxft.models.ernie import config, weights
from jaxft.models.ernie.network import Ernie
from jaxft.models.family import Family, Head

FAMILY = Family(
    display_name="ERNIE",
    network=Ernie,
    config_class=config.ErnieConfig,
    config=config,
    table=weights.TABLE,
    architecture="ErnieModel",
    heads={
        HeadKind.TOKEN: Head("ErnieForTokenClassification"),
        HeadKind.SEQUENCE: Head("ErnieForSequenceClassification", pool="pooler"),
    },
    is_causal=False,
    has_token_types=True,
    has_pooler=True,
)
