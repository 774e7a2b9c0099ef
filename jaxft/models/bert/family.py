"""Declares BERT: its network, its checkpoints, its heads, and what it can do."""

from jaxft.models.bert import config, weights
from jaxft.models.bert.network import Bert
from jaxft.models.family import Family, NewModel

FAMILY = Family(
    display_name="BERT",
    network=Bert,
    config_class=config.BertConfig,
    table=weights.TABLE,
    architecture="BertModel",
    heads=weights.HEADS,
    is_causal=False,
    has_token_types=True,
    has_pooler=True,
    new_model=NewModel(tuple(config.HF_KEYS.values()), config.make_new_config, has_tokenizer=False),
)
