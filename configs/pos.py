"""Parts of speech with BERT: `--config configs/pos.py[:offline|conll2003]`.

offline    MiniLM from a package on the generated corpus `demo:pos`; needs no hub. Synthetic: sentences of a small
           grammar whose words often have several parts of speech (each word's most frequent one is right for 84% of
           dev). It shows that the trainer works, not how good a model is. Measured, seed 0: accuracy 99.2% on dev
           and on test.
conll2003  bert-base-cased on the Penn Treebank tags of CoNLL-2003 from the hub. Not measured here (no hub).

Labels of your own: --config.data.train=FILE, CoNLL columns or records; they stay as they are.
"""

from ml_collections import ConfigDict

from jaxft.config import MINILM, base
from jaxft.errors import UserError


def get_config(arg: str = "offline") -> ConfigDict:
    config = base()
    config.data.scheme = "none"  # labels that form no entities, whatever they look like
    config.optim.warmup = 0.1
    if arg == "offline":
        config.model.checkpoint = MINILM
        config.data.train = "demo:pos/train"
        config.data.dev = "demo:pos/dev"
        config.data.test = "demo:pos/test"
        config.train.epochs = 2.0
        config.optim.lr = 2e-4
    elif arg == "conll2003":
        config.model.checkpoint = "google-bert/bert-base-cased"
        config.data.train = "hub:eriktks/conll2003@refs/convert/parquet/train"
        config.data.dev = "hub:eriktks/conll2003@refs/convert/parquet/validation"
        config.data.test = "hub:eriktks/conll2003@refs/convert/parquet/test"
        config.data.columns = (("tags", "pos_tags"),)
        config.data.max_length = 256
        config.batch.rows = 8
        config.train.epochs = 3.0
        config.optim.lr = 3e-5
    else:
        raise UserError(f"configs/pos.py has no recipe {arg!r}; expected offline or conll2003")
    return config
