"""Parts of speech: `--config configs/pos.py[:offline|gpt2|conll2003]`.

offline    MiniLM from a package on the generated corpus `demo:pos`; needs no hub. Synthetic: sentences of a small
           grammar whose words often have several parts of speech (each word's most frequent one is right for 84% of
           dev). It shows that the trainer works, not how good a model is. Measured, seed 0: accuracy 99.5% on dev
           and on test.
gpt2       the same sentences, read from left to right by a small GPT-2 from scratch, with each word's label on its
           last subword. Measured, seed 0: accuracy 90.6% on dev, 89.7% on test. The model does not see the next
           words, which often decide a part of speech.
conll2003  bert-base-cased on the Penn Treebank tags of CoNLL-2003 from the hub. Not measured here (no hub).

To use your own labels, set --config.data.train=FILE (CoNLL columns or records). Labels are not changed.
"""

from ml_collections import ConfigDict

from jaxft.errors import UserError
from jaxft.training.settings import MINILM, default_config


def get_config(arg: str = "offline") -> ConfigDict:
    config = default_config("token_classification")
    config.data.scheme = "none"  # labels that form no entities, whatever they look like
    config.optim.warmup = 0.1
    if arg in ("offline", "gpt2"):
        config.data.train = "demo:pos/train"
        config.data.dev = "demo:pos/dev"
        config.data.test = "demo:pos/test"
    if arg == "offline":
        config.model.checkpoint = MINILM
        config.train.epochs = 2.0
        config.optim.lr = 2e-4
    elif arg == "gpt2":
        config.model.checkpoint = "new:gpt2"
        config.model.init = "scratch"
        config.model.sizes = (("n_layer", 4), ("n_embd", 192), ("n_head", 4))
        config.model.vocab_size = 1024
        config.data.label_subwords = "last"  # the first to see the whole word
        config.train.epochs = 6.0
        config.optim.lr = 1e-3
    elif arg == "conll2003":
        config.model.checkpoint = "google-bert/bert-base-cased"
        config.data.train = "hub:eriktks/conll2003@refs/convert/parquet/train"
        config.data.dev = "hub:eriktks/conll2003@refs/convert/parquet/validation"
        config.data.test = "hub:eriktks/conll2003@refs/convert/parquet/test"
        config.data.columns = (("tags", "pos_tags"),)
        config.data.max_length = 256
        config.train.epochs = 3.0
        config.optim.lr = 3e-5
    else:
        raise UserError(f"configs/pos.py has no recipe {arg!r}; expected offline, gpt2 or conll2003")
    return config
