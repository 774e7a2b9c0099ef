"""Similarity of two texts, as a number: `--config configs/similarity.py[:offline|stsb]`.

offline  MiniLM from a package on the generated corpus `demo:similarity`, pairs of requests to a bank; needs no hub.
         Synthetic: the number follows from the requests and the things they name. It shows that the trainer works, not
         how good a model is. Measured, seed 0: Pearson 0.978 and Spearman 0.961 on dev, 0.980 and 0.958 on test.
stsb     bert-base-uncased on STS-B from the hub, where test has no labels. Not measured here (no hub); the BERT paper
         (Devlin et al. 2019, table 1) reports a Spearman correlation of 85.8 for BERT-base on the benchmark's test.

To use your own numbers, set --config.data.train=FILE (CSV or TSV with a header, JSON lines, Parquet), the columns, and
--config.data.label_range='(0.0, 5.0)', which is learnt as 0 to 1. For single texts, set --config.data.text_pair=none.
"""

from ml_collections import ConfigDict

from jaxft.errors import UserError
from jaxft.training.settings import MINILM, default_config


def get_config(arg: str = "offline") -> ConfigDict:
    config = default_config("sequence_classification")
    config.model.problem_type = "regression"
    config.data.label_range = (0.0, 5.0)
    config.optim.warmup = 0.1
    if arg == "offline":
        config.model.checkpoint = MINILM
        config.data.train = "demo:similarity/train"
        config.data.dev = "demo:similarity/dev"
        config.data.test = "demo:similarity/test"
        config.data.text_pair = "text_pair"
        config.data.max_length = 64
        config.batch.examples = 17  # 8 rows; with 32, in half of the steps, Pearson is 0.969 on dev
        config.train.epochs = 3.0
        config.optim.lr = 2e-4
    elif arg == "stsb":
        config.model.checkpoint = "google-bert/bert-base-uncased"
        config.data.train = "hub:nyu-mll/glue:stsb/train"
        config.data.dev = "hub:nyu-mll/glue:stsb/validation"
        config.data.text = "sentence1"
        config.data.text_pair = "sentence2"
        config.data.max_length = 128
        config.train.epochs = 3.0
        config.optim.lr = 2e-5
        config.eval.metric = "spearman"
    else:
        raise UserError(f"configs/similarity.py has no recipe {arg!r}; expected offline or stsb")
    return config
