"""Named-entity recognition with a CRF over words: `--config configs/ner_crf.py[:offline|wnut17]`.

offline  MiniLM from a package on the generated corpus `demo:ner`; needs no hub. Synthetic: it shows that the trainer
         works, not how good a model is. Measured, seed 0: entity F1 93.6 on dev, 93.1 on test.
wnut17   MiniLM on WNUT-17 from the hub, or on its files with --config.data.train=DIR/train.conll
         --config.data.dev=DIR/dev.conll --config.data.test=none. Measured on the corpus's files, seed 0: entity F1 60.8
         on dev, 60.0 with the weights of the last step.

By default I-X is predicted only after B-X or I-X. --config.model.constraints=False removes this constraint.
"""

from ml_collections import ConfigDict

from jaxft.errors import UserError
from jaxft.training.settings import MINILM, default_config


def get_config(arg: str = "offline") -> ConfigDict:
    config = default_config("token_classification")
    config.model.crf = True
    config.model.checkpoint = MINILM
    config.optim.lr = 1e-4
    config.optim.warmup = 0.1
    # At the backbone's rate Adam moves a score by 0.02 in 200 steps; transitions mean something from about 1 on.
    config.optim.lr_multipliers = ((r"^head/(transitions|start|end)$", 100.0), (r".", 1.0))
    if arg == "offline":
        config.data.train = "demo:ner/train"
        config.data.dev = "demo:ner/dev"
        config.data.test = "demo:ner/test"
        config.train.epochs = 3.0
    elif arg == "wnut17":
        config.data.train = "hub:leondz/wnut_17@refs/convert/parquet/train"
        config.data.dev = "hub:leondz/wnut_17@refs/convert/parquet/validation"
        config.data.test = "hub:leondz/wnut_17@refs/convert/parquet/test"
        config.data.max_length = 64
        config.train.epochs = 6.0
    else:
        raise UserError(f"configs/ner_crf.py has no recipe {arg!r}; expected offline or wnut17")
    return config
