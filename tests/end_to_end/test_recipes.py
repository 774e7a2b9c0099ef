"""Recipes whose data and models are on the hub: read up to the network, and trained on data in the shape of theirs."""

import re

import datasets
import pytest
from datasets import ClassLabel, List, Value

import jaxft
from jaxft.config.recipe_catalog import read_docstring, read_results, recipe_paths
from jaxft.data.sources.records.hub import parse_hub_address
from jaxft.errors import UserError
from jaxft.parallel.mesh import make_mesh
from jaxft.training.prepare import prepare_data
from jaxft.training.settings import load_settings

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
LABELS = {
    "ner:xlmr_de": WIKIANN,
    "ner:cluener": ["O", "B-company", "I-company", "B-game", "I-game"],
    "sentiment:imdb": ["neg", "pos"],
    "sentiment:mnli": ENTAILMENT,
    "sentiment:tnews": TOPICS,
    "intent:clinc": INTENTS,
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
    pytest.param(recipe, marks=[] if recipe == "sentiment:imdb" else pytest.mark.sweep) for recipe in LABELS
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


@pytest.mark.parametrize("recipe", RECIPES_OF_THE_HUB)
def test_a_recipe_of_the_hub_is_right_up_to_the_network(recipe, tmp_path):
    address = re.escape(load_settings(recipe).data.train)
    with pytest.raises(UserError, match=f"{address}: the hub cannot be reached"):
        jaxft.train(recipe, tmp_path)


@pytest.mark.parametrize("recipe", LABELS)
def test_a_recipe_of_the_hub_reads_data_of_its_shape(recipe, tiny_bert, tmp_path, hub):
    config = load_settings(recipe)
    with pytest.raises(
        UserError, match=f"checkpoint '{config.model.checkpoint}': no such local folder, it is not in"
    ):
        jaxft.train(recipe, tmp_path)
    sources = [source for source in (config.data.train, config.data.dev, config.data.test) if source]
    assert hub == {parse_hub_address(source, None) for source in sources}
    config = jaxft.load_config(recipe, **TINY, **{"model.checkpoint": str(tiny_bert)})
    data = prepare_data(config, make_mesh(config), log=lambda line: None)
    assert sorted(data.task.labels) == sorted(LABELS[recipe])
    if config.task == "sequence_classification":  # the order of outputs is the schema's
        assert list(data.task.labels) == LABELS[recipe]
    train = data.train[0]
    assert (len(train.windows) > len(train.examples)) == (recipe == "sentiment:imdb")


@pytest.mark.parametrize("recipe", TRAINED)
def test_a_recipe_of_the_hub_trains_on_data_of_its_shape(recipe, tiny_bert, tmp_path, hub):
    run = jaxft.train(recipe, tmp_path / "run", **TINY, **{"model.checkpoint": str(tiny_bert)})
    assert run.summary["steps"] == 2 and run.summary["dev"]["loss"] > 0
