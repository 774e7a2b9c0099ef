"""Tokenizers of a checkpoint: read as its config says, and refused if they cannot serve."""

import importlib.util
import json
import shutil

import pytest
import sentencepiece
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from jaxft.errors import UserError
from jaxft.hub.tokenizers import count_token_ids, load_tokenizer
from tests.data.vocabularies import KINDS, LINES, SENTENCEPIECE_KINDS, train_sentencepiece, vocabulary_folder

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
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "vocab.txt").write_text(
        "hello 1\nworld 2\n"
    )  # with codes.bpe, of a tokenizer that is not fast
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "roberta"}))
    with pytest.raises(
        UserError, match="RobertaTokenizer, has special tokens but no words; expected .* vocab.json or"
    ):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_tokenizer_is_the_same_from_its_oldest_files_and_from_tokenizer_json_alone(kind, tmp_path):
    """Also in the folder of a run, which is loaded as it was saved; and with a space before each word if asked."""
    folder = vocabulary_folder(kind)
    shutil.copy(folder / "config.json", tmp_path)
    for reads_words in (False, True):
        tokenizer = load_tokenizer(folder, reads_words=reads_words)
        tokenizer.save_pretrained(tmp_path)
        expected = tokenizer(LINES[:7])["input_ids"]
        assert load_tokenizer(tmp_path)(LINES[:7])["input_ids"] == expected
        (tmp_path / "tokenizer_config.json").unlink()
        assert not list(tmp_path.glob("*.model")) and not (tmp_path / "vocab.txt").exists()
        assert load_tokenizer(tmp_path, reads_words=reads_words)(LINES[:7])["input_ids"] == expected
    words = tokenizer([["Oslo", "Oslo"]], is_split_into_words=True, add_special_tokens=False)["input_ids"][0]
    assert words[: len(words) // 2] == words[len(words) // 2 :]
    assert (
        words
        == tokenizer(" Oslo Oslo" if kind == "roberta" else "Oslo Oslo", add_special_tokens=False)[
            "input_ids"
        ]
    )


@pytest.mark.parametrize("kind", SENTENCEPIECE_KINDS)
def test_a_sentencepiece_model_alone_is_converted_to_the_same_pieces(kind):
    tokenizer = load_tokenizer(vocabulary_folder(kind))
    original = sentencepiece.SentencePieceProcessor(model_proto=train_sentencepiece(kind))
    assert tokenizer.is_fast
    for line in LINES[:7]:
        assert tokenizer.tokenize(line) == original.encode(line, out_type=str)


def test_a_sentencepiece_model_that_cannot_be_converted_is_named(tmp_path, monkeypatch):
    shutil.copy(vocabulary_folder("xlm-roberta") / "config.json", tmp_path)
    (tmp_path / "sentencepiece.bpe.model").write_bytes(b"hello")
    with pytest.raises(
        UserError, match="cannot convert sentencepiece.bpe.model, its only vocabulary.*damaged"
    ):
        load_tokenizer(tmp_path)
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *more: None if name == "sentencepiece" else find_spec(name, *more),
    )
    with pytest.raises(
        UserError,
        match="its only vocabulary is sentencepiece.bpe.model.*pip install sentencepiece, or choose",
    ):
        load_tokenizer(tmp_path)


def test_a_general_byte_level_tokenizer_reads_words_with_a_space_before_them(tmp_path):
    """Its class ignores `add_prefix_space`, so that words would be read as if glued to each other."""
    tokenizer = load_tokenizer(vocabulary_folder("roberta"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer).save_pretrained(tmp_path)
    shutil.copy(vocabulary_folder("roberta") / "config.json", tmp_path)
    general = load_tokenizer(tmp_path, reads_words=True)
    assert type(general).__name__ == "TokenizersBackend"
    words = general([["The", "mayor"]], is_split_into_words=True, add_special_tokens=False)["input_ids"][0]
    assert words == tokenizer(" The mayor", add_special_tokens=False)["input_ids"]
    general.save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path)("The mayor")["input_ids"][1:-1] == words


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
