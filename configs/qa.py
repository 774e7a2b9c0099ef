"""Extractive question answering: `--config configs/qa.py[:offline|squad|squad_v2|deberta]`.

offline   MiniLM from a package on the generated corpus `demo:qa`; needs no hub. Synthetic: paragraphs and questions
          from templates, some of which are only in dev and test. It shows that the trainer works, not how good a
          model is. Measured, seed 0: exact match 85.8 and F1 87.0 on dev, 84.0 and 84.5 on test.
squad     bert-base-uncased on SQuAD 1.1 from the hub. Not measured here (no hub); the BERT paper (Devlin et al. 2019,
          table 2) reports exact match 80.8 and F1 88.5 on dev.
squad_v2  the same on SQuAD 2.0, where a third of the questions have no answer. Not measured here.
deberta   deberta-v3-base on SQuAD 2.0 from the hub. Not measured here (no hub); the model's paper (He et al. 2023)
          reports F1 88.4 on dev. The hub has no safetensors of the model: run `jaxft convert
          microsoft/deberta-v3-base --output FOLDER`, and set --config.model.checkpoint=FOLDER.

To use your own questions, set --config.data.train=FILE (SQuAD's JSON, or JSON lines with question, context and
answers).
"""

from ml_collections import ConfigDict

from jaxft.errors import UserError
from jaxft.training.settings import MINILM, default_config


def get_config(arg: str = "offline") -> ConfigDict:
    config = default_config("question_answering")
    config.optim.warmup = 0.1
    if arg == "offline":
        config.model.checkpoint = MINILM
        config.data.train = "demo:qa/train"
        config.data.dev = "demo:qa/dev"
        config.data.test = "demo:qa/test"
        config.data.max_length = 192
        config.data.stride = 48
        config.batch.examples = 12
        config.train.epochs = 2.0
        config.optim.lr = 2e-4
    elif arg in ("squad", "squad_v2"):
        config.model.checkpoint = "google-bert/bert-base-uncased"
        config.data.train = f"hub:rajpurkar/{arg}/train"
        config.data.dev = f"hub:rajpurkar/{arg}/validation"
        config.data.max_length = 384
        config.data.stride = 128
        config.train.epochs = 2.0
        config.optim.lr = 3e-5
    elif arg == "deberta":
        config.model.checkpoint = "microsoft/deberta-v3-base"
        config.data.train = "hub:rajpurkar/squad_v2/train"
        config.data.dev = "hub:rajpurkar/squad_v2/validation"
        config.data.max_length = 384
        config.data.stride = 128
        config.train.epochs = 3.0
        config.optim.lr = 2e-5
    else:
        raise UserError(f"configs/qa.py has no recipe {arg!r}; expected offline, squad, squad_v2 or deberta")
    return config
