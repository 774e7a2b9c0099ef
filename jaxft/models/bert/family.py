"""Declares BERT: its network, its checkpoints, its heads, and what it can do."""

from jaxft.layers.heads.kinds import HeadKind
from jaxft.models.bert import config, weights
from jaxft.models.bert.network import Bert
from jaxft.models.family import Family, Head

FAMILY = Family(
    display_name="BERT",
    network=Bert,
    config_class=config.BertConfig,
    config=config,
    table=weights.TABLE,
    architecture="BertModel",
    heads={
        HeadKind.TOKEN: Head("BertForTokenClassification"),
        HeadKind.SEQUENCE: Head("BertForSequenceClassification", pool="pooler"),
        HeadKind.QUESTION: Head("BertForQuestionAnswering"),
        HeadKind.SHARED: Head("BertModel"),
    },
    is_causal=False,
    has_token_types=True,
    has_pooler=True,
)
