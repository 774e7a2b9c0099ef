"""Declares ResNet: its network, its checkpoints, its head, and what it can do."""

from jaxft.hub.weights import WeightTable
from jaxft.models.family import Family, NewModel
from jaxft.models.resnet import config, weights
from jaxft.models.resnet.network import ResNet

FAMILY = Family(
    display_name="ResNet",
    network=ResNet,
    config_class=config.ResNetConfig,
    table=WeightTable([]),
    configure_table=weights.make_table,
    architecture="ResNetModel",
    heads=weights.HEADS,
    is_causal=False,
    has_pooler=False,
    new_model=NewModel.from_base(
        config.NEW_MODEL_FIELDS,
        {"model_type": "resnet", "architectures": ["ResNetForImageClassification"]},
    ),
    image_processor="ConvNextImageProcessor",
    adapter_targets={"lora": (), "ia3": (), "ia3_inputs": ()},
)
