"""Declares ViT and DeiT: their network, their checkpoints, their head, and what they can do."""

from jaxft.models.family import Family, NewModel
from jaxft.models.vit import config, weights
from jaxft.models.vit.network import ViT


def _declare(config_class: type[config.ViTConfig]) -> Family:
    """Returns the family whose config is `config_class`."""
    model_type, name = config_class.model_type, config_class.display_name
    architecture = f"{name}ForImageClassification"
    return Family(
        display_name=name,
        network=ViT,
        config_class=config_class,
        table=weights.make_table(model_type),
        architecture=f"{name}Model",
        heads=weights.make_heads(architecture),
        is_causal=False,
        has_pooler=False,
        new_model=NewModel.from_base(
            config.NEW_MODEL_FIELDS, {"model_type": model_type, "architectures": [architecture]}
        ),
        resize=weights.resize_positions,
        image_processor=f"{name}ImageProcessor",
    )


VIT = _declare(config.ViTConfig)
DEIT = _declare(config.DeiTConfig)
