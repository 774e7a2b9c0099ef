"""Makes the config of a BERT that is small enough to train in a test."""

from transformers import BertConfig

from tests.data.tiny_text import VOCABULARY


def tiny_bert(length: int) -> BertConfig:
    """Returns the config of a BERT with `length` positions. Its weights vary enough for outputs that differ."""
    return BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=40,
        max_position_embeddings=length,
        initializer_range=0.2,
        hidden_dropout_prob=0.2,
        attention_probs_dropout_prob=0.2,
    )
