"""Gives tests tokenizers of each kind, with small vocabularies of many scripts, as the files of checkpoints."""

import functools
import io
import json
import pathlib
import tempfile

import sentencepiece
import tokenizers
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from jaxft.hub.tokenizers import load_tokenizer

LINES = [
    "The mayor of Oslo, Anna O'Brien, didn't fly to New York on 3.5.2024.",
    "Der Bürgermeister von Köln fährt nach São Paulo; ﬁne, ½ cup.",
    "中国北京是首都。我爱你，世界！ 東京は日本の首都です。",
    "مرحبا بالعالم، هذه جملة عن القاهرة.",
    "สวัสดีชาวโลก กรุงเทพมหานครเป็นเมืองหลวง",
    "नमस्ते दुनिया, दिल्ली भारत की राजधानी है।",
    "ok 😀 👩‍👩‍👧 ❤️ fine",
] * 20
# The family whose checkpoints have such files: byte-level BPE (two), Unigram by SentencePiece (three), WordPiece (two).
KINDS = ("roberta", "modernbert", "xlm-roberta", "camembert", "deberta-v2", "bert", "mpnet")
SENTENCEPIECE_KINDS = ("xlm-roberta", "camembert", "deberta-v2")

# Parts of words: several scripts, marks that combine, joiners, and characters that tokenizers change or leave out.
_PIECES = (
    *"aZé3½ﬁİ'.-_…中国東はですกรุงเทพनमस्तेمرحباΩ",
    *("didn't", "O'Brien", "Oslo", "กรุง", "दिल्ली", "القاهرة", "北京", "e\u0301", "ar\u0640abic"),
    *("😀", "👩\u200d👩\u200d👧", "❤\ufe0f", "🇳🇴", "\u200d", "\u200b", "\u200c", "\u00ad", "\ufeff", "\x00"),
    *("\ud83d", "<mask>", "</s>", "[SEP]", "<unk>"),
)
SPACES = (" ", "  ", "\t", "\n", "\u00a0", "\u3000", "\u2009", "\u2028", "\u200b")
WORDS = st.lists(st.sampled_from([*_PIECES, "\u00a0", "\u3000"]), max_size=4).map("".join)
# Texts are valid Unicode; readers see to that.
TEXTS = st.lists(
    st.sampled_from([piece for piece in _PIECES if piece != "\ud83d"] + list(SPACES) + [" "] * 20),
    max_size=40,
).map("".join)


@functools.cache
def vocabulary_folder(kind: str) -> pathlib.Path:
    """Returns a folder with config.json and the vocabulary of a tokenizer, in the oldest format of the `KINDS`."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix=f"jaxft-{kind}-"))
    (folder / "config.json").write_text(json.dumps({"model_type": kind}))
    if kind in SENTENCEPIECE_KINDS:
        name = "spm.model" if kind == "deberta-v2" else "sentencepiece.bpe.model"
        (folder / name).write_bytes(train_sentencepiece(kind))
    elif kind == "roberta":
        special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
        train_byte_level(special).model.save(str(folder))
    elif kind == "modernbert":
        save_general_tokenizer(folder)
    else:
        bert, mpnet = "[PAD] [UNK] [CLS] [SEP] [MASK]", "<s> <pad> </s> [UNK] <mask>"
        special = (bert if kind == "bert" else mpnet).split()
        tokenizer = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer()
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=special, show_progress=False)
        tokenizer.train_from_iterator(LINES, trainer)
        tokenizer.model.save(str(folder))
    return folder


def train_byte_level(special: list[str]) -> tokenizers.Tokenizer:
    """Returns a byte-level BPE."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(LINES, trainer)
    return tokenizer


def save_general_tokenizer(folder: pathlib.Path) -> None:
    """Writes a byte-level BPE with BERT's special tokens as a general tokenizer.json, as ModernBERT has it."""
    special = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
    tokenizer = train_byte_level(special)
    tokenizer.normalizer, tokenizer.decoder = normalizers.NFC(), decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        **{f"{token[1:-1].lower()}_token": token for token in special[:-1]},
        mask_token=tokenizers.AddedToken("[MASK]", lstrip=True),
        clean_up_tokenization_spaces=True,
        model_input_names=["input_ids", "attention_mask"],
    ).save_pretrained(folder)


@functools.cache
def train_sentencepiece(kind: str) -> bytes:
    """Returns a SentencePiece model of Unigram, with the normalization and special tokens of one of the kinds."""
    model = io.BytesIO()
    options = {"pad_id": -1, "normalization_rule_name": "nmt_nfkc"}
    if kind == "deberta-v2":
        options = {"pad_id": 0, "bos_id": 1, "eos_id": 2, "unk_id": 3, "normalization_rule_name": "identity"}
        options |= {"pad_piece": "[PAD]", "bos_piece": "[CLS]", "eos_piece": "[SEP]", "unk_piece": "[UNK]"}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES),
        model_writer=model,
        model_type="unigram",
        vocab_size=300,
        hard_vocab_limit=False,
        character_coverage=1.0,
        minloglevel=2,
        **options,
    )
    return model.getvalue()


@functools.cache
def make_tokenizer(kind: str, *, reads_words: bool = False) -> PreTrainedTokenizerBase:
    """Returns the tokenizer of `vocabulary_folder(kind)`."""
    return load_tokenizer(vocabulary_folder(kind), reads_words=reads_words)
