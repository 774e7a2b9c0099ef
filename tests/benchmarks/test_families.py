"""The benchmark of families makes models that both sides open, runs both in turns, and goes on after a stop."""

import json
from argparse import Namespace

import pytest

from jaxft.hub.tokenizers import load_tokenizer
from tests.conftest import REPOSITORY
from tests.data.vocabularies import LINES


@pytest.fixture
def families(monkeypatch):
    """The benchmark as a module, with tiny models."""
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    import families

    for name, value in {"VOCABULARY": 300, "LAYERS": 1, "DEEP_LAYERS": 1, "WIDTH": 24}.items():
        monkeypatch.setattr(families, name, value)
    return families


@pytest.mark.parametrize("family", ["roberta", "camembert", "distilbert", "deberta-v2", "modernbert"])
def test_a_model_has_its_familys_kind_of_tokenizer(families, family, tmp_path):
    folder = families.make_model(family, LINES, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    tokenizer = load_tokenizer(folder, reads_words=True)
    assert config["model_type"] == family and config["vocab_size"] == len(tokenizer)
    assert config["pad_token_id"] == tokenizer.pad_token_id
    tokens = tokenizer(["Oslo"], is_split_into_words=True).tokens()
    pieces = "".join(tokens[1:-1]).replace("##", "")
    starts = {"roberta": "ĠOslo", "camembert": "▁Oslo", "distilbert": "oslo"}
    assert pieces == (starts | {"deberta-v2": "▁Oslo", "modernbert": "ĠOslo"})[family]
    assert (folder / "model.safetensors").exists()


def test_sides_run_in_turns_and_recorded_runs_are_not_run_again(families, tmp_path, monkeypatch, capsys):
    runs = []

    def measure(side, task, model, steps, seed):
        runs.append((side, seed))
        return {"tokens_per_s": 30.0 if side == "jaxft" else 20.0 - seed}

    monkeypatch.setattr(families, "measure", measure)
    monkeypatch.setattr(families, "measure_peak", {"xla": 1e11, "torch": 2e11}.get)
    flags = Namespace(repeats=1, steps=8, record=tmp_path / "record.jsonl")
    families.compare("roberta", "wnut17", None, flags, lambda: None)
    flags.repeats = 2
    families.compare("roberta", "wnut17", None, flags, lambda: None)
    assert runs == [("jaxft", 0), ("peer", 0), ("jaxft", 1), ("peer", 1)]
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["ratios"] == [1.5, 1.58] and result["predicted"] == 1.3 and result["holds"]
    families.compare("roberta", "banking77", None, flags, lambda: None)  # none of its runs is recorded
    assert len(runs) == 8 and json.loads(capsys.readouterr().out.splitlines()[-1])["predicted"] == 1.7
