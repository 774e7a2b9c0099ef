"""Declares GPT-2: its network, its checkpoints, its heads, and what it can do."""

from jaxft.models.family import Family, NewModel
from jaxft.models.gpt2 import config, weights
from jaxft.models.gpt2.cached_decoder import GPT2Decoder
from jaxft.models.gpt2.network import GPT2

FAMILY = Family(
    display_name="GPT-2",
    network=GPT2,
    config_class=config.GPT2Config,
    table=weights.TABLE,
    architecture="GPT2Model",
    heads=weights.HEADS,
    is_causal=True,
    has_pooler=False,
    has_past_keys=True,
    new_model=NewModel(config.NEW_MODEL_FIELDS, config.make_new_config, has_tokenizer=True),
    make_decoder=GPT2Decoder,  # type: ignore[arg-type]  # of this family's shapes only
    # Query, key and value are one weight of checkpoints, and get one adapter.
    adapter_targets={
        "lora": ("attn.c_attn",),
        "ia3": ("attn.c_attn", "mlp/down"),
        "ia3_inputs": ("mlp/down",),
    },
)
