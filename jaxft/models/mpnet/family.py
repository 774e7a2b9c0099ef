"""Declares MPNet: its network, its checkpoints, its heads, and what it can do."""

from jaxft.models.encoder_family import describe_new_encoder
from jaxft.models.family import Family
from jaxft.models.mpnet import config, weights
from jaxft.models.mpnet.network import MPNet

FAMILY = Family(
    display_name=config.MPNetConfig.display_name,
    network=MPNet,
    config_class=config.MPNetConfig,
    table=weights.TABLE,
    architecture="MPNetModel",
    heads=weights.HEADS,
    is_causal=False,
    has_pooler=True,
    new_model=describe_new_encoder(
        config.MPNetConfig, {"max_position_embeddings": 514, "layer_norm_eps": 1e-5}
    ),
)
