"""Declares MPNet: its network, its checkpoints, its heads, and what it can do."""

from jaxft.models.family import Family, NewModel
from jaxft.models.mpnet import config, weights
from jaxft.models.mpnet.network import MPNet

FAMILY = Family(
    display_name="MPNet",
    network=MPNet,
    config_class=config.MPNetConfig,
    table=weights.TABLE,
    architecture="MPNetModel",
    heads=weights.HEADS,
    is_causal=False,
    has_pooler=True,
    has_relative_bias=True,
    new_model=NewModel(tuple(config.HF_KEYS.values()), config.make_new_config, has_tokenizer=False),
)
