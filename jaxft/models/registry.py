"""Lists the model families by the `model_type` of their config.json."""

import importlib
from collections.abc import Mapping

from flax import nnx

from jaxft.errors import UserError
from jaxft.layers.heads.backbone import Backbone
from jaxft.layers.heads.kinds import HeadKind
from jaxft.layers.runtime import Runtime
from jaxft.models.decoder import AnyDecoder
from jaxft.models.family import Family, Head
from jaxft.models.model_config import ModelConfig

# Each family declares itself in the module `family` of its folder.
FAMILIES: dict[str, Family] = {
    "bert": importlib.import_module("jaxft.models.bert.family").FAMILY,
    "camembert": importlib.import_module("jaxft.models.roberta.family").CAMEMBERT,
    "deberta-v2": importlib.import_module("jaxft.models.deberta_v2.family").FAMILY,
    "deit": importlib.import_module("jaxft.models.vit.family").DEIT,
    "distilbert": importlib.import_module("jaxft.models.distilbert.family").FAMILY,
    "electra": importlib.import_module("jaxft.models.electra.family").FAMILY,
    "gpt2": importlib.import_module("jaxft.models.gpt2.family").FAMILY,
    "modernbert": importlib.import_module("jaxft.models.modernbert.family").FAMILY,
    "mpnet": importlib.import_module("jaxft.models.mpnet.family").FAMILY,
    "resnet": importlib.import_module("jaxft.models.resnet.family").FAMILY,
    "roberta": importlib.import_module("jaxft.models.roberta.family").ROBERTA,
    "vit": importlib.import_module("jaxft.models.vit.family").VIT,
    "xlm-roberta": importlib.import_module("jaxft.models.roberta.family").XLM_ROBERTA,
}


def list_families(head: HeadKind) -> list[str]:
    """Returns the model types of the families that support a kind of head."""
    return [model_type for model_type, family in FAMILIES.items() if head in family.heads]


def find_head(config: ModelConfig, kind: HeadKind) -> Head:
    """Returns what its family declares of a kind of head over a backbone of this shape."""
    return FAMILIES[config.model_type].head(kind, config)


def family_of(hf_config: Mapping[str, object]) -> Family:
    """Returns the family of a config.json. Raises `UserError` if its model_type is not supported."""
    model_type = hf_config.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise UserError(
            f"config.json: model_type is {model_type!r}, but only {sorted(FAMILIES)} are supported; choose "
            "another checkpoint (or add the field where an old config.json lacks it)"
        )
    return FAMILIES[model_type]


def read_model_config(hf_config: Mapping[str, object]) -> ModelConfig:
    """Returns the shape in a config.json. Raises `UserError` for one that is of no family, or cannot be."""
    return family_of(hf_config).config_class.from_hf(hf_config)


def make_decoder(config: ModelConfig) -> AnyDecoder:
    """Makes the decoder of a backbone with this shape. Raises `UserError` if its family does not generate text."""
    decoder = FAMILIES[config.model_type].make_decoder
    if decoder is None:
        others = [name for name, family in FAMILIES.items() if family.make_decoder]
        raise UserError(
            f"config.json: model_type is {config.model_type!r}, which generates no text; choose a checkpoint of "
            f"{' or '.join(others)}"
        )
    return decoder(config)


def make_backbone(config: ModelConfig, runtime: Runtime, *, rngs: nnx.Rngs, pooler: bool = False) -> Backbone:
    """Makes a backbone.

    Args:
      config: its shape, an instance of its family's config class.
      runtime: how it computes.
      rngs: the random numbers for its parameters.
      pooler: whether it has a pooler, which only some families have.
    """
    options = {"pooler": True} if pooler else {}
    return FAMILIES[config.model_type].network(config, runtime, **options, rngs=rngs)
