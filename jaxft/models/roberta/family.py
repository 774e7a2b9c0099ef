"""Declares RoBERTa, XLM-R and CamemBERT: one network, with other vocabularies and names of classes."""

from jaxft.models.encoder_family import describe_new_encoder
from jaxft.models.family import Family
from jaxft.models.roberta import config, weights
from jaxft.models.roberta.network import Roberta


def _declare(config_class: type[config.RobertaConfig], name: str, vocab_size: int) -> Family:
    """Returns a family.

    Args:
      config_class: its config.
      name: the beginning of the names of its classes in transformers.
      vocab_size: that of its base model.
    """
    base = {
        "vocab_size": vocab_size,
        "max_position_embeddings": 514,
        "type_vocab_size": 1,
        "layer_norm_eps": 1e-5,
    }
    return Family(
        display_name=config_class.display_name,
        network=Roberta,
        config_class=config_class,
        table=weights.TABLE,
        architecture=f"{name}Model",
        heads=weights.make_heads(name),
        is_causal=False,
        has_pooler=True,
        has_past_keys=True,
        new_model=describe_new_encoder(config_class, base),
    )


ROBERTA = _declare(config.RobertaConfig, "Roberta", 50265)
XLM_ROBERTA = _declare(config.XLMRobertaConfig, "XLMRoberta", 250002)
CAMEMBERT = _declare(config.CamembertConfig, "Camembert", 32005)
