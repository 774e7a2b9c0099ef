"""Declares ModernBERT: its network, its checkpoints, its heads, and what it can do."""

from jaxft.models.family import Family, NewModel
from jaxft.models.modernbert import config, weights
from jaxft.models.modernbert.network import ModernBert

FAMILY = Family(
    display_name=config.ModernBertConfig.display_name,
    network=ModernBert,
    config_class=config.ModernBertConfig,
    table=weights.TABLE,
    architecture="ModernBertModel",
    heads=weights.HEADS,
    is_causal=False,
    has_pooler=False,
    new_model=NewModel.from_base(config.NEW_MODEL_FIELDS, {"model_type": "modernbert"}),
    # Query, key and value are one weight of checkpoints, and get one adapter.
    adapter_targets={
        "lora": ("attn.Wqkv",),
        "ia3": ("attn.Wqkv", "mlp/down"),
        "ia3_inputs": ("mlp/down",),
    },
)
