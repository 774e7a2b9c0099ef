"""Headlines for articles with GPT-2: `--config configs/headline.py[:offline|hub]`.

offline  A small GPT-2 from scratch on the generated corpus `demo:headline`; needs no hub. Synthetic: it shows
         that targets are learnt from their prompts, not how good a model is. Measured, seed 0: loss 0.005, all
         200 headlines of dev and of test generated exactly.
hub      gpt2 (124M) on XSum's articles and one-sentence summaries from the hub. Not measured here (no hub).

To use your own pairs, set --config.data.train=FILE (JSON lines, CSV or Parquet) and a template of its keys. The last
key is the target, e.g. --config.data.template='Question: {question} Answer: {answer}'.
"""

from ml_collections import ConfigDict

from jaxft.errors import UserError
from jaxft.training.settings import default_config


def get_config(arg: str = "offline") -> ConfigDict:
    config = default_config("causal_lm")
    config.optim.warmup = 0.1
    if arg == "offline":
        config.model.checkpoint = "new:gpt2"
        config.model.init = "scratch"
        config.model.sizes = (("n_layer", 4), ("n_embd", 192), ("n_head", 4))
        config.model.vocab_size = 1024
        config.data.train = "demo:headline/train"
        config.data.dev = "demo:headline/dev"
        config.data.test = "demo:headline/test"
        config.data.template = "{article}\nHeadline: {headline}"
        config.data.max_length = 128
        config.train.epochs = 4.0
        config.optim.lr = 1e-3
        config.eval.max_new_tokens = 24
    elif arg == "hub":
        config.model.checkpoint = "openai-community/gpt2"
        config.data.train = "hub:EdinburghNLP/xsum@refs/convert/parquet/train"
        config.data.dev = "hub:EdinburghNLP/xsum@refs/convert/parquet/validation"
        config.data.test = "hub:EdinburghNLP/xsum@refs/convert/parquet/test"
        config.data.template = "{document}\nTL;DR: {summary}"
        config.data.max_length = 512
        config.train.epochs = 2.0
        config.optim.lr = 5e-5
    else:
        raise UserError(f"configs/headline.py has no recipe {arg!r}; expected offline or hub")
    return config
