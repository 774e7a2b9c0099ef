"""Tokenizers of a checkpoint: read as its config says, and refused if they cannot serve."""

import json

import pytest
from transformers import AutoTokenizer

from jaxft.errors import UserError
from jaxft.hub.tokenizers import load_tokenizer

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "##s", "The"]


def tokenizer_folder(folder, **config):
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"} | config))
    return folder


@pytest.mark.parametrize(("lower", "tokens"), [(True, ["the", "cat", "##s"]), (False, ["The", "cat", "##s"])])
def test_cased_and_uncased_tokenizers_are_read_as_their_config_says(lower, tokens, tmp_path):
    tokenizer = load_tokenizer(tokenizer_folder(tmp_path, do_lower_case=lower))
    assert tokenizer.tokenize("The cats") == tokens


def test_a_tokenizer_that_is_not_fast_is_refused(tmp_path):
    folder = tokenizer_folder(tmp_path, tokenizer_class="BertJapaneseTokenizer", word_tokenizer_type="basic")
    assert not AutoTokenizer.from_pretrained(folder).is_fast  # otherwise this test would show nothing
    with pytest.raises(UserError, match="BertJapaneseTokenizer, is not fast, so characters cannot be traced"):
        load_tokenizer(folder)


def test_a_tokenizer_that_is_missing_or_broken_is_named(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(UserError, match="has no tokenizer; expected one of tokenizer.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="its tokenizer cannot be read"):
        load_tokenizer(tmp_path)


def test_a_checkpoints_own_code_is_not_run(tmp_path):
    folder = tokenizer_folder(
        tmp_path, tokenizer_class="Custom", auto_map={"AutoTokenizer": ["code.Custom", None]}
    )
    (folder / "code.py").write_text("raise SystemExit('this code was run')\n")
    try:
        load_tokenizer(folder)
    except UserError as error:
        assert "cannot be read" in str(error)
