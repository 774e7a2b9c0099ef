"""Named-entity recognition: `--config configs/ner.py[:offline|lora|conll2003|wnut17|deberta|modernbert|xlmr|cluener]`.

offline    MiniLM from a package on the generated corpus `demo:ner`; needs no hub. Synthetic: it shows
           that the trainer works, not how good a model is. Measured, seed 0: entity F1 93.7 on dev, 92.0
           on test.
lora       offline with LoRA adapters in place of all weights. Measured, seed 0: entity F1 92.2 on dev, 91.0 on test,
           in as many epochs.
conll2003  bert-base-cased on CoNLL-2003 from the hub. Not measured here (no hub); for bert-base-cased the BERT
           paper (Devlin et al. 2019, table 7) reports entity F1 92.4 on test, with document context, which
           the hub's data set does not contain.
wnut17     MiniLM on WNUT-17 from the hub. Measured on the corpus's own files, seed 0: entity F1 58.2 on dev.
deberta    deberta-v3-base on CoNLL-2003 from the hub, with a rate and epochs that the papers (He et al. 2021 and 2023)
           tried for other tasks. Not measured here (no hub). The hub has no safetensors of the model: run `jaxft
           convert microsoft/deberta-v3-base --output FOLDER`, and set --config.model.checkpoint=FOLDER.
modernbert  ModernBERT-base on CoNLL-2003 from the hub, with one of the rates that the paper (Warner et al. 2024) tried
           for classification. Not measured here (no hub).
xlmr       xlm-roberta-base on WikiANN from the hub: English, or with xlmr_de, say, one of its 176 languages. A
           model trained on one language labels the others too: `jaxft evaluate --run RUN
           --data hub:unimelb-nlp/wikiann:de/test`. Not measured here (no hub).
cluener    bert-base-chinese on CLUENER from the hub, ten kinds of entities in Chinese news, where test has no
           entities. For CLUENER's own files, set --config.data.train=DIR/train.json --config.data.dev=DIR/dev.json.
           Not measured here (no hub).
"""

from ml_collections import ConfigDict

from jaxft.errors import UserError
from jaxft.training.settings import MINILM, default_config


def get_config(arg: str = "offline") -> ConfigDict:
    config = default_config("token_classification")
    config.optim.warmup = 0.1
    if arg in ("offline", "lora"):
        config.model.checkpoint = MINILM
        config.data.train = "demo:ner/train"
        config.data.dev = "demo:ner/dev"
        config.data.test = "demo:ner/test"
        config.train.epochs = 3.0
        config.optim.lr = 1e-4
        if arg == "lora":
            config.adapter.method = "lora"
            config.adapter.target_modules = ("all-linear",)
            config.optim.lr = 1e-3
    elif arg == "conll2003":
        config.model.checkpoint = "google-bert/bert-base-cased"
        config.data.train = "hub:eriktks/conll2003@refs/convert/parquet/train"
        config.data.dev = "hub:eriktks/conll2003@refs/convert/parquet/validation"
        config.data.test = "hub:eriktks/conll2003@refs/convert/parquet/test"
        config.data.max_length = 256
        config.train.epochs = 4.0
        config.optim.lr = 3e-5
    elif arg == "wnut17":
        config.model.checkpoint = MINILM
        config.data.train = "hub:leondz/wnut_17@refs/convert/parquet/train"
        config.data.dev = "hub:leondz/wnut_17@refs/convert/parquet/validation"
        config.data.test = "hub:leondz/wnut_17@refs/convert/parquet/test"
        config.data.max_length = 64  # 11 of 3,394 sentences are longer, and cut in two
        config.train.epochs = 6.0
        config.optim.lr = 1e-4
    elif arg == "deberta":
        config.model.checkpoint = "microsoft/deberta-v3-base"
        config.data.train = "hub:eriktks/conll2003@refs/convert/parquet/train"
        config.data.dev = "hub:eriktks/conll2003@refs/convert/parquet/validation"
        config.data.test = "hub:eriktks/conll2003@refs/convert/parquet/test"
        config.data.max_length = 256
        config.train.epochs = 5.0
        config.optim.lr = 2e-5
    elif arg == "modernbert":
        config.model.checkpoint = "answerdotai/ModernBERT-base"
        config.data.train = "hub:eriktks/conll2003@refs/convert/parquet/train"
        config.data.dev = "hub:eriktks/conll2003@refs/convert/parquet/validation"
        config.data.test = "hub:eriktks/conll2003@refs/convert/parquet/test"
        config.data.max_length = 256
        config.train.epochs = 4.0
        config.optim.lr = 5e-5
    elif arg == "xlmr" or arg.startswith("xlmr_"):
        language = arg.partition("_")[2] or "en"
        config.model.checkpoint = "FacebookAI/xlm-roberta-base"
        config.data.train = f"hub:unimelb-nlp/wikiann:{language}/train"
        config.data.dev = f"hub:unimelb-nlp/wikiann:{language}/validation"
        config.data.test = f"hub:unimelb-nlp/wikiann:{language}/test"
        config.train.epochs = 3.0
        config.optim.lr = 2e-5
    elif arg == "cluener":
        config.model.checkpoint = "google-bert/bert-base-chinese"
        config.data.train = "hub:xusenlin/clue-ner/train"
        config.data.dev = "hub:xusenlin/clue-ner/validation"
        config.train.epochs = 4.0
        config.optim.lr = 3e-5
    else:
        raise UserError(
            f"configs/ner.py has no recipe {arg!r}; expected offline, lora, conll2003, wnut17, deberta, modernbert, "
            "xlmr, xlmr_LANGUAGE or cluener"
        )
    return config
