"""Recipes whose data and models are on the hub: read up to the network, and trained on data in the shape of theirs."""

import pathlib
import re

import datasets
import pytest
from datasets import ClassLabel, List, Value
from transformers import AutoConfig, AutoModel

import jaxft
from jaxft.config.recipe_catalog import read_docstring, read_results, recipe_paths
from jaxft.data.sources.records.hub import parse_hub_address
from jaxft.errors import UserError
from jaxft.parallel.mesh import make_mesh
from jaxft.training.prepare import prepare_data
from jaxft.training.settings import load_settings
from tests.data.vocabularies import make_tokenizer

TEXT = Value("string")
WIKIANN = ["O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC"]
TOPICS = "100 101 102 103 104 106 107 108 109 110 112 113 114 115 116".split()  # of TNEWS
ENTAILMENT = ["entailment", "neutral", "contradiction"]
INTENTS = ["restaurant_reviews", "oos", "translate"]  # 3 of 151, in an order that is not the alphabet's


def tagged(words: str, tags: str) -> dict:
    tokens = words.split()
    return {
        "tokens": tokens,
        "ner_tags": [WIKIANN.index(tag) for tag in tags.split()],
        "langs": ["de"] * len(tokens),
        "spans": ["PER: Anna"],
    }


def spans(text: str, entity: str, label: str) -> dict:
    start = text.index(entity)
    span = {
        "id": 0,
        "entity": entity,
        "start_offset": start,
        "end_offset": start + len(entity),
        "label": label,
    }
    return {"text": text, "entities": [span]}


# Rows in the shape of each corpus on the hub, as its card describes it: (features, rows).
CORPORA = {
    "unimelb-nlp/wikiann": (
        {"tokens": List(TEXT), "ner_tags": List(ClassLabel(names=WIKIANN)), "langs": List(TEXT), "spans": List(TEXT)},
        [tagged("Anna lebt in Bonn .", "B-PER O O B-LOC O"), tagged("Der VfL Bonn gewann", "O B-ORG I-ORG O")],
    ),
    "xusenlin/clue-ner": (
        {
            "text": TEXT,
            "entities": [
                {"id": Value("int64"), "entity": TEXT, "start_offset": Value("int64"),
                 "end_offset": Value("int64"), "label": TEXT}
            ],
        },
        [spans("浙商银行企业信贷部", "浙商银行", "company"), spans("生生不息CSOL生化狂潮", "CSOL", "game")],
    ),
    "stanfordnlp/imdb": (
        {"text": TEXT, "label": ClassLabel(names=["neg", "pos"])},
        [{"text": f"{n} good films<br /><br />" * 30, "label": n % 2} for n in range(9)],
    ),
    "nyu-mll/glue": (
        {"premise": TEXT, "hypothesis": TEXT, "label": ClassLabel(names=ENTAILMENT), "idx": Value("int32")},
        [{"premise": "It rains.", "hypothesis": f"It is {n}.", "label": n % 3, "idx": n} for n in range(4)],
    ),
    "clue/clue": (
        {"sentence": TEXT, "label": ClassLabel(names=TOPICS), "idx": Value("int32")},
        [{"sentence": f"上课时学生手机响个不停 {n}", "label": n % 15, "idx": n} for n in range(4)],
    ),
    "clinc/clinc_oos": (
        {"text": TEXT, "intent": ClassLabel(names=INTENTS)},
        [{"text": f"what does this mean {n}", "intent": n % 3} for n in range(4)],
    ),
}  # fmt: skip
# recipe -> (its family and kind of tokenizer, its labels)
EXPECTED = {
    "ner:xlmr_de": ("xlm-roberta", "xlm-roberta", WIKIANN),
    "ner:cluener": ("bert", "bert", ["O", "B-company", "I-company", "B-game", "I-game"]),
    "sentiment:imdb": ("roberta", "roberta", ["neg", "pos"]),
    "sentiment:imdb-modernbert": ("modernbert", "modernbert", ["neg", "pos"]),
    "sentiment:mnli": ("roberta", "roberta", ENTAILMENT),
    "sentiment:tnews": ("bert", "bert", TOPICS),
    "intent:clinc": ("distilbert", "bert", INTENTS),
}
RECIPES = [
    f"{name}:{variant}"
    for name, path in recipe_paths().items()
    for variants in read_results(read_docstring(path))
    for variant in variants.split(", ")
]


RECIPES_OF_THE_HUB = [
    recipe for recipe in (*RECIPES, "ner:xlmr_de") if load_settings(recipe).data.train.startswith("hub:")
]
# One trains in `make test`; the others differ in sizes only.
TRAINED = [
    pytest.param(recipe, marks=[] if recipe == "sentiment:imdb" else pytest.mark.sweep) for recipe in EXPECTED
]
# ModernBERT's reviews are read as RoBERTa's.
READ = [
    pytest.param(recipe, marks=pytest.mark.sweep if recipe == "sentiment:imdb-modernbert" else [])
    for recipe in EXPECTED
]
TINY = {
    "data.max_length": 64,
    "data.cache_dir": "off",
    "batch.rows": 4,
    "train.steps": 2,
    "eval.rows": 4,
    "eval.bootstrap": 0,
    "log.tensorboard": False,
}


@pytest.fixture
def hub(monkeypatch):
    """Puts `CORPORA` in the place of the hub's data sets; returns a set of what was asked for."""
    asked = set()

    def load_dataset(name, configuration, *, revision, split):
        asked.add((name, configuration, revision, split))
        features, rows = CORPORA[name]
        return datasets.Dataset.from_list(rows * 10, features=datasets.Features(features))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


def make_checkpoint(recipe: str, folder: pathlib.Path) -> str:
    """Writes a tiny random model of the recipe's family, with a tokenizer of its kind."""
    family, kind, _ = EXPECTED[recipe]
    tokenizer = make_tokenizer(kind)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    if family == "distilbert":
        sizes = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}
    config = AutoConfig.for_model(
        family,
        vocab_size=len(tokenizer),
        max_position_embeddings=66,
        pad_token_id=tokenizer.pad_token_id,
        **sizes,
    )
    AutoModel.from_config(config).save_pretrained(folder / "tiny")
    tokenizer.save_pretrained(folder / "tiny")
    return str(folder / "tiny")


@pytest.mark.parametrize("recipe", RECIPES_OF_THE_HUB)
def test_a_recipe_of_the_hub_is_right_up_to_the_network(recipe, tmp_path):
    address = re.escape(load_settings(recipe).data.train)
    with pytest.raises(UserError, match=f"{address}: the hub cannot be reached"):
        jaxft.train(recipe, tmp_path)


@pytest.mark.parametrize("recipe", READ)
def test_a_recipe_of_the_hub_reads_data_of_its_shape(recipe, tmp_path, hub):
    config = load_settings(recipe)
    with pytest.raises(
        UserError, match=f"checkpoint '{config.model.checkpoint}': no such local folder, it is not in"
    ):
        jaxft.train(recipe, tmp_path)
    sources = [source for source in (config.data.train, config.data.dev, config.data.test) if source]
    assert hub == {parse_hub_address(source, None) for source in sources}
    config = jaxft.load_config(recipe, **TINY, **{"model.checkpoint": make_checkpoint(recipe, tmp_path)})
    data = prepare_data(config, make_mesh(config), log=lambda line: None)
    *_, labels = EXPECTED[recipe]
    assert sorted(data.task.labels) == sorted(labels)
    if config.task == "sequence_classification":  # the order of outputs is the schema's
        assert list(data.task.labels) == labels
    train = data.train[0]
    assert (len(train.windows) > len(train.examples)) == recipe.startswith("sentiment:imdb")


@pytest.mark.parametrize("recipe", TRAINED)
def test_a_recipe_of_the_hub_trains_on_data_of_its_shape(recipe, tmp_path, hub):
    checkpoint = make_checkpoint(recipe, tmp_path)
    run = jaxft.train(recipe, tmp_path / "run", **TINY, **{"model.checkpoint": checkpoint})
    assert run.summary["steps"] == 2 and run.summary["dev"]["loss"] > 0
