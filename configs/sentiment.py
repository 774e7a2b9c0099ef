"""Classifies texts: `--config configs/sentiment.py[:offline|gpt2|sst2|imdb|imdb-modernbert|mnli|tnews]`.

offline  MiniLM from a package on the generated corpus `demo:sentiment`; needs no hub. Synthetic: reviews from
         templates in which a word of praise or blame decides nothing by itself. It shows that the trainer
         works, not how good a model is. Measured, seed 0: accuracy 100% on dev and on test.
gpt2     the same texts, read by a small GPT-2 from scratch; needs no hub. Measured, seed 0: accuracy 100% on dev and
         on test. For the pretrained model, set --config.model.init=pretrained
         --config.model.checkpoint=openai-community/gpt2 and a lower --config.optim.lr.
sst2     bert-base-uncased on SST-2 from the hub, where test has no labels. Not measured here (no hub); the BERT
         paper (Devlin et al. 2019, table 1) reports 93.5% accuracy on the benchmark's test set.
imdb     roberta-base on IMDB's reviews from the hub, long ones in windows: a review's answer is the mean of its
         windows' logits. A tenth of train is the dev set. Not measured here (no hub).
imdb-modernbert
         ModernBERT-base on the same reviews, whole up to 2,048 tokens; only longer ones are cut into windows. Not
         measured here (no hub).
mnli     roberta-base on pairs of MNLI from the hub: does the premise entail the hypothesis? dev is the matched, test
         the mismatched validation set. Not measured here (no hub); the authors of RoBERTa report an accuracy of 87.6%.
tnews    bert-base-chinese on headlines of Chinese news in 15 topics (TNEWS of CLUE) from the hub, where test has no
         labels. Not measured here (no hub).

To use your own texts, set --config.data.train=FILE (CSV or TSV with a header, JSON lines, Parquet) and the columns,
--config.data.text=review --config.data.label=stars. --config.data.text_pair names a second text. For several labels
per text or for numbers, set --config.model.problem_type=multi_label_classification or regression, and an eval.metric
such as f1_micro or spearman.
"""

from ml_collections import ConfigDict

from jaxft.errors import UserError
from jaxft.training.settings import MINILM, default_config


def get_config(arg: str = "offline") -> ConfigDict:
    config = default_config("sequence_classification")
    config.optim.warmup = 0.1
    if arg == "offline":
        config.model.checkpoint = MINILM
        config.data.train = "demo:sentiment/train"
        config.data.dev = "demo:sentiment/dev"
        config.data.test = "demo:sentiment/test"
        config.data.max_length = 64
        config.train.epochs = 2.0
        config.optim.lr = 1e-4
    elif arg == "gpt2":
        config.model.checkpoint = "new:gpt2"
        config.model.init = "scratch"
        config.model.sizes = (("n_layer", 4), ("n_embd", 192), ("n_head", 4))
        config.model.vocab_size = 1024
        config.data.train = "demo:sentiment/train"
        config.data.dev = "demo:sentiment/dev"
        config.data.test = "demo:sentiment/test"
        config.data.max_length = 64
        config.train.epochs = 6.0
        config.optim.lr = 1e-3
    elif arg == "sst2":
        config.model.checkpoint = "google-bert/bert-base-uncased"
        config.data.train = "hub:nyu-mll/glue:sst2/train"
        config.data.dev = "hub:nyu-mll/glue:sst2/validation"
        config.data.text = "sentence"
        config.data.max_length = 128
        config.train.epochs = 3.0
        config.optim.lr = 2e-5
    elif arg == "imdb":
        config.model.checkpoint = "FacebookAI/roberta-base"
        config.data.train = "hub:stanfordnlp/imdb/train"
        config.data.test = "hub:stanfordnlp/imdb/test"
        config.data.max_length = 512
        config.data.truncation = "windows"
        config.train.epochs = 2.0
        config.optim.lr = 2e-5
    elif arg == "imdb-modernbert":
        config.model.checkpoint = "answerdotai/ModernBERT-base"
        config.data.train = "hub:stanfordnlp/imdb/train"
        config.data.test = "hub:stanfordnlp/imdb/test"
        config.data.max_length = 2048
        config.data.truncation = "windows"
        config.train.epochs = 2.0
        config.optim.lr = 5e-5
    elif arg == "mnli":
        config.model.checkpoint = "FacebookAI/roberta-base"
        config.data.train = "hub:nyu-mll/glue:mnli/train"
        config.data.dev = "hub:nyu-mll/glue:mnli/validation_matched"
        config.data.test = "hub:nyu-mll/glue:mnli/validation_mismatched"
        config.data.text = "premise"
        config.data.text_pair = "hypothesis"
        config.train.epochs = 3.0
        config.optim.lr = 2e-5
    elif arg == "tnews":
        config.model.checkpoint = "google-bert/bert-base-chinese"
        config.data.train = "hub:clue/clue:tnews/train"
        config.data.dev = "hub:clue/clue:tnews/validation"
        config.data.text = "sentence"
        config.train.epochs = 3.0
        config.optim.lr = 2e-5
    else:
        raise UserError(
            f"configs/sentiment.py has no recipe {arg!r}; expected offline, gpt2, sst2, imdb, imdb-modernbert, mnli or "
            "tnews"
        )
    return config
