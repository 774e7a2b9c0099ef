"""Recipes are found by name, and their data sets and batch sizes belong together."""

import re

import pytest

from jaxft.config.recipe_catalog import list_recipes, read_docstring, read_results, recipe_name, recipe_paths
from jaxft.errors import UserError
from jaxft.training.settings import load_settings
from tests.conftest import REPOSITORY

NER = str(REPOSITORY / "configs/ner.py")


@pytest.fixture(autouse=True)
def mine(tmp_path, monkeypatch):
    """Training data of the user's own, in the current folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.conll").touch()


def load(address, *overrides):
    lines = []
    config = load_settings(address, [f"--config.{text}" for text in overrides], lines.append)
    data = config.data
    return (data.train, data.dev, data.test), lines


def test_own_training_data_is_never_measured_on_the_sets_of_a_recipe():
    demo = ("demo:ner/train", "demo:ner/dev", "demo:ner/test")
    assert load(NER) == (demo, [])
    assert load(NER, "data.train=demo:ner/train") == (demo, [])
    sets, [line] = load(NER, "data.train=mine.conll")
    assert sets == ("mine.conll", None, None)
    assert line == (
        f"config.data.train=mine.conll is not the training data of recipe {NER}, so its config.data.dev=demo:ner/dev "
        "and config.data.test=demo:ner/test are left out: dev is split off train and there is no test set; name "
        "--config.data.dev and --config.data.test for others"
    )
    sets, [line] = load(NER, "data.train=mine.conll", "data.dev=d.conll")
    assert sets == ("mine.conll", "d.conll", None) and "dev is split" not in line
    sets, [line] = load(NER, "data.test=t.conll", "data.train=mine.conll")
    assert sets == ("mine.conll", None, "t.conll") and "no test set" not in line
    mine = ["data.train=mine.conll", "data.dev=none", "data.test=none"]
    assert load(NER, *mine) == (("mine.conll", None, None), [])
    assert load(NER, "data.train=mine.conll", "data.dev=demo:ner/dev", "data.test=none")[1] == []
    missing = load(NER, "data.train=missing.conll")  # whose error is enough to read
    assert missing == (("missing.conll", None, None), [])
    assert len(load(NER, "data.train=hub:a/b/train")[1]) == len(load(NER, "data.train=*.conll")[1]) == 1
    twice = load(NER, "data.train=mine.conll", "data.train=demo:ner/train")  # the last one counts
    assert twice == (demo, [])


def test_a_learning_rate_that_stays_with_another_checkpoint_is_named():
    [line] = load(NER, "model.checkpoint=google-bert/bert-base-cased")[1]
    assert line == (
        f"config.model.checkpoint=google-bert/bert-base-cased is not the checkpoint of recipe {NER}, whose "
        "config.optim.lr=0.0001 stays; name --config.optim.lr for another"
    )
    assert load(NER, "model.checkpoint=google-bert/bert-base-cased", "optim.lr=3e-5")[1] == []


def test_own_training_data_of_a_recipe_in_yaml_is_own_data_too(tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text(f"recipe: {NER}\ndata: {{train: mine.conll}}\n")
    sets, [line] = load(str(mine))
    assert sets == ("mine.conll", None, None) and f"training data of recipe {NER}" in line
    mine.write_text(f"recipe: {NER}\ndata: {{train: mine.conll, dev: dev.conll, test: none}}\n")
    assert load(str(mine)) == (("mine.conll", "dev.conll", None), [])
    # A recipe's own sets belong to its own training data, too.
    assert load(str(mine), "data.train=more.conll")[0] == ("more.conll", None, None)
    mine.write_text(f"recipe: {NER}\nseed: 1\n")
    assert load(str(mine))[0] == ("demo:ner/train", "demo:ner/dev", "demo:ner/test")


def test_the_size_of_a_step_that_is_set_last_counts(tmp_path):
    def batch(address, *overrides):
        config = load_settings(address, [f"--config.batch.{text}" for text in overrides])
        return config.batch.rows, config.batch.examples

    mine = tmp_path / "mine.yaml"
    mine.write_text(f"recipe: {NER}\nbatch: {{rows: 6}}\n")
    assert batch(str(mine)) == (6, None)
    assert batch(str(mine), "examples=20") == (None, 20)
    assert batch(str(mine), "examples=none") == (6, None)
    assert batch(str(mine), "rows=none") == (None, None)
    (tmp_path / "next.yaml").write_text("recipe: mine.yaml\nbatch.examples: 9\n")
    assert batch(str(tmp_path / "next.yaml")) == (None, 9)
    assert batch(str(tmp_path / "next.yaml"), "rows=3") == (3, None)
    with pytest.raises(UserError, match=r"config\.batch\.rows=3 and config\.batch\.examples=9: both say"):
        batch(NER, "rows=3", "examples=9")
    with pytest.raises(
        UserError, match=r"config\.batch\.rows=8 is not a multiple of config\.batch\.accumulate=3"
    ):
        batch(NER, "rows=8", "accumulate=3")


def test_recipes_are_found_by_name_and_listed_when_there_is_no_such_one(tmp_path, monkeypatch):
    by_path = load_settings(str(REPOSITORY / "configs/sentiment.py:gpt2"))
    monkeypatch.chdir(tmp_path)
    assert load_settings("sentiment:gpt2") == by_path
    assert recipe_name("sentiment") == "sentiment" and recipe_name("sentiment:gpt2") == "sentiment-gpt2"
    for address in ("sentimental", "configs/sentimental.py:gpt2"):
        with pytest.raises(UserError, match=f"--config {address}: no file .*; expected a recipe") as caught:
            load_settings(address)
        assert "one of these (did you mean sentiment?):\n" in str(caught.value)
        assert "\n  sentiment    Classifies texts" in str(caught.value)
        assert str(caught.value).count("\n") == len(list((REPOSITORY / "configs").glob("*.py")))
    (tmp_path / "configs").mkdir()  # the user's own recipes come first
    (tmp_path / "configs/sentiment.yaml").write_text("recipe: ner\nseed: 7\n")
    assert load_settings("sentiment").seed == 7
    (tmp_path / "configs/loop.yaml").write_text("recipe: loop\n")
    with pytest.raises(UserError, match="recipe: configs/loop.yaml leads back to itself"):
        load_settings("loop")
    (tmp_path / "configs/broken.py").write_text("def")
    assert "\n  broken\n" in list_recipes()


@pytest.mark.parametrize("name", recipe_paths())
def test_every_variant_of_a_recipe_tells_what_was_measured(name):
    path = recipe_paths()[name]
    docstring = read_docstring(path)
    first, *_ = docstring.splitlines()
    variants = re.search(r"\[:([\w|-]+)\]`\.$", first)[1].split("|")
    results = read_results(docstring)
    assert [variant for names in results for variant in names.split(", ")] == variants
    assert all(re.match(r"Measured.*\d|Not measured", result) for result in results.values()), results
    assert recipe_name(name) == name and f"`--config configs/{name}.py[" in first
    default, *others = (load_settings(f"{path}:{variant}") for variant in variants)
    assert default == load_settings(str(path)) and default not in others
