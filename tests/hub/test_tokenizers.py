"""Tokenizers of a checkpoint: read as its config says, and refused if they cannot serve."""

import json

import pytest
from transformers import AutoTokenizer

from jaxft.errors import UserError
from jaxft.hub.tokenizers import count_token_ids, load_tokenizer

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


def test_a_vocabulary_without_a_token_for_unknown_words_is_refused(tmp_path):
    """BERT's tokenizer would add the token itself, beyond the embeddings; a tokenizer.json leaves it out."""
    folder = tokenizer_folder(tmp_path)
    AutoTokenizer.from_pretrained(folder).save_pretrained(folder)
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["vocab"] = {
        token: index for token, index in content["model"]["vocab"].items() if token != "[UNK]"
    }
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] != "[UNK]"]
    (folder / "tokenizer.json").write_text(json.dumps(content))
    config = {"tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"no '\[UNK\]', the token for unknown words; expected one"):
        load_tokenizer(folder)


def test_rows_of_an_embedding_follow_from_the_largest_id(tmp_path):
    """A vocabulary may have gaps, so the number of its tokens says too little."""
    folder = tokenizer_folder(tmp_path)
    AutoTokenizer.from_pretrained(folder).save_pretrained(folder)
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["vocab"]["##s"] = 40
    (folder / "tokenizer.json").write_text(json.dumps(content))
    tokenizer = load_tokenizer(folder)
    assert len(tokenizer) == len(VOCABULARY) and count_token_ids(tokenizer) == 41
