"""Declares ViT and DeiT: their network, their checkpoints, their head, and what they can do."""

from jaxft.models.family import Family
from jaxft.models.vit import config, weights
from jaxft.models.vit.network import ViT

VIT = Family(
    display_name="ViT",
    network=ViT,
    config_class=config.ViTConfig,
    table=weights.make_table("vit"),
    architecture="ViTModel",
    heads=weights.make_heads("ViTForImageClassification"),
    is_causal=False,
    has_pooler=False,
    new_model=config.describe_new_model(config.ViTConfig, "ViTForImageClassification"),
    resize=weights.resize_positions,
    image_processor="ViTImageProcessor",
)
DEIT = Family(
    display_name="DeiT",
    network=ViT,
    config_class=config.DeiTConfig,
    table=weights.make_table("deit"),
    architecture="DeiTModel",
    heads=weights.make_heads("DeiTForImageClassification"),
    is_causal=False,
    has_pooler=False,
    new_model=config.describe_new_model(config.DeiTConfig, "DeiTForImageClassification"),
    resize=weights.resize_positions,
    image_processor="DeiTImageProcessor",
)
