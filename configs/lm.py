"""Causal language modelling with GPT-2: `--config configs/lm.py[:tiny|gpt2|lora]`.

tiny  A small GPT-2 from scratch with a newly trained tokenizer, by default on the generated corpus `demo:text`;
      needs no hub. To use your own text, set --config.data.train=FILE, and --config.data.documents to say what a
      document is ("line", "file", or the line between two documents). A part of it becomes the dev set.
      Measured, seed 0: perplexity 21.5 per token, 1.21 bits per byte on dev.
gpt2  gpt2 (124M) from the hub on WikiText-2 from the hub. Not measured here (no hub).
lora  The same with LoRA adapters in place of all weights, at the rate that LoRA's paper (Hu et al. 2022, table 11)
      has for GPT-2. Not measured here (no hub).
"""

from ml_collections import ConfigDict

from jaxft.errors import UserError
from jaxft.training.settings import default_config


def get_config(arg: str = "tiny") -> ConfigDict:
    config = default_config("causal_lm")
    config.optim.warmup = 0.1
    config.optim.schedule = "cosine"
    if arg == "tiny":
        config.model.checkpoint = "new:gpt2"
        config.model.init = "scratch"
        config.model.sizes = (("n_layer", 4), ("n_embd", 256), ("n_head", 4))
        config.model.vocab_size = 2048
        config.data.train = "demo:text/train"
        config.data.max_length = 128
        config.train.epochs = 5.0
        config.optim.lr = 1e-3
        config.optim.b2 = 0.95
        config.optim.weight_decay = 0.1
    elif arg in ("gpt2", "lora"):
        config.model.checkpoint = "openai-community/gpt2"
        config.data.train = "hub:Salesforce/wikitext:wikitext-2-raw-v1/train"
        config.data.dev = "hub:Salesforce/wikitext:wikitext-2-raw-v1/validation"
        config.data.test = "hub:Salesforce/wikitext:wikitext-2-raw-v1/test"
        config.data.layout = "blocks"
        config.data.max_length = 1024
        config.train.epochs = 3.0
        config.optim.lr = 5e-5
        if arg == "lora":
            config.adapter.method = "lora"
            config.adapter.r = 4
            config.adapter.alpha = 32.0
            config.adapter.dropout = 0.1
            config.optim.lr = 2e-4
    else:
        raise UserError(f"configs/lm.py has no recipe {arg!r}; expected tiny, gpt2 or lora")
    return config
