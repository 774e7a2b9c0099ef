"""Tokenizes texts of any length in bounded memory: long texts in pieces, which give the tokens of the whole text.

The tokenizer's results take some 200 bytes for each token. A call therefore gets only so many characters, and its
results become arrays before the next call.
"""

import array
import functools
import json
import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from jaxft.data.encoding.tokenizer import tokenize

if TYPE_CHECKING:
    from tokenizers import Encoding
    from transformers import PreTrainedTokenizerBase

PIECE_CHARACTERS = 1 << 14  # of a long text that are tokenized at a time, up to the next place for a cut
CALL_TEXTS = 256  # the most texts in a call
CALL_CHARACTERS = 1 << 18  # a call gets no more texts when it has as many characters as this

# The tokens on both sides of such a place depend on their side alone. The letter before the space ends a token, and no
# added token that takes the white space around it along ends or begins there (see `_has_joining_token`).
_BEFORE_SPACE = re.compile(r"(?<=\w)(?= \w)")
_BEFORE_SPACE_OR_BETWEEN_IDEOGRAPHS = re.compile(r"(?<=\w)(?= \w)|(?<=[\u4e00-\u9fff])(?=[\u4e00-\u9fff])")
# The parts of tokenizers that look at a character and its neighbours, but not over such a place.
# "Precompiled" is SentencePiece's table of characters. "Metaspace" puts a mark where a space is, and at the beginning.
_LOCAL_NORMALIZERS = {
    None,
    "BertNormalizer",
    "Lowercase",
    "NFC",
    "NFD",
    "NFKC",
    "NFKD",
    "Precompiled",
    "StripAccents",
}
# DeBERTa-v2's: white space of several characters becomes one space, and that at the end of a text nothing.
_LOCAL_SPACE_NORMALIZERS = (
    {"type": "Replace", "pattern": {"Regex": r"\s{2,}|[\n\r\t]"}, "content": " "},
    {"type": "Strip", "strip_left": False, "strip_right": True},
)
_LOCAL_PRE_TOKENIZERS = {"BertPreTokenizer", "ByteLevel", "Metaspace", "Whitespace", "WhitespaceSplit"}


# A piece of a text: the number of the text, the first character, the piece. A named tuple would take 2% more time.
TextPiece: TypeAlias = tuple[int, int, str]
Numbers: TypeAlias = "list[int] | array.array[int]"


class TextTokens(NamedTuple):
    """The tokens of a text: lists for a text in one piece, else arrays of C ints, which take a tenth of the memory."""

    ids: Numbers
    starts: Numbers  # the first character of each token; empty if nobody asked
    ends: Numbers  # the end (exclusive) of each token's characters; empty if nobody asked


def tokenize_texts(
    tokenizer: "PreTrainedTokenizerBase", texts: Iterable[str], *, with_characters: bool = False
) -> Iterator[TextTokens]:
    """Yields the tokens of each text, without special tokens.

    Args:
      tokenizer: a fast Hugging Face tokenizer.
      texts: the texts.
      with_characters: True if the characters of each token are needed.
    """
    tokens: TextTokens | None = None
    for pieces, encodings in tokenize_pieces(tokenizer, texts):
        for (_, start, _), encoding in zip(pieces, encodings, strict=True):
            starts: Numbers = []
            ends: Numbers = []
            if with_characters:
                offsets = encoding.offsets
                starts = [first + start for first, _ in offsets]
                ends = [end + start for _, end in offsets]
            piece = TextTokens(encoding.ids, starts, ends)
            if start:
                assert tokens is not None  # those of the piece before
                tokens = _join_tokens(tokens, piece)
                continue
            if tokens is not None:
                yield tokens
            tokens = piece
    if tokens is not None:
        yield tokens


def _join_tokens(tokens: TextTokens, piece: TextTokens) -> TextTokens:
    """Returns the tokens of a text and of its next piece, as arrays."""
    joined = [values if isinstance(values, array.array) else array.array("i", values) for values in tokens]
    for values, more in zip(joined, piece, strict=True):
        values.extend(more)
    return TextTokens(*joined)


def tokenize_pieces(
    tokenizer: "PreTrainedTokenizerBase", texts: Iterable[str]
) -> Iterator[tuple[list[TextPiece], list["Encoding"]]]:
    """Yields texts, long ones in pieces, with the tokens of each; as many as a call gets."""
    call: list[TextPiece] = []
    characters = 0
    for piece in _cut_texts(tokenizer, texts):
        call.append(piece)
        characters += len(piece[2])
        if len(call) == CALL_TEXTS or characters >= CALL_CHARACTERS:
            yield call, tokenize(tokenizer, [content for _, _, content in call])
            call, characters = [], 0
    if call:
        yield call, tokenize(tokenizer, [content for _, _, content in call])


def _cut_texts(tokenizer: "PreTrainedTokenizerBase", texts: Iterable[str]) -> Iterator[TextPiece]:
    """Yields the pieces of each text; an empty text is a piece too. A text without a place for a cut stays whole."""
    places = functools.cache(lambda: _find_places(tokenizer))  # takes the time of a short text
    for number, text in enumerate(texts):
        start = 0
        while len(text) - start > PIECE_CHARACTERS and (pattern := places()):
            place = pattern.search(text, start + PIECE_CHARACTERS)
            if place is None:
                break
            yield number, start, text[start : place.start()]
            start = place.start()
        yield number, start, text[start:] if start else text


def _find_places(tokenizer: "PreTrainedTokenizerBase") -> re.Pattern[str] | None:
    """Returns the pattern of the places where texts can be cut, without a change of their tokens; None for nowhere."""
    backend = tokenizer.backend_tokenizer
    normalizer, pre_tokenizer, post_processor = (
        _describe_part(part) for part in (backend.normalizer, backend.pre_tokenizer, backend.post_processor)
    )
    normalizers = normalizer.get("normalizers", [normalizer])
    pre_tokenizers = pre_tokenizer.get("pretokenizers", [pre_tokenizer])
    is_local = all(
        step["type"] in _LOCAL_NORMALIZERS or step in _LOCAL_SPACE_NORMALIZERS for step in normalizers
    ) and all(
        step["type"] in _LOCAL_PRE_TOKENIZERS and step.get("use_regex", True) and step.get("split", True)
        for step in pre_tokenizers
    )
    # Such a processor leaves the space of a first token in its characters, and takes that of others out.
    trims_spaces = post_processor.get("trim_offsets") and post_processor.get("add_prefix_space")
    if not is_local or trims_spaces or _has_joining_token(backend):
        return None
    has_ideographs = pre_tokenizer["type"] == "BertPreTokenizer" and any(
        step.get("handle_chinese_chars") for step in normalizers
    )
    return _BEFORE_SPACE_OR_BETWEEN_IDEOGRAPHS if has_ideographs else _BEFORE_SPACE


def _describe_part(part: Any) -> dict[str, Any]:
    """Returns the settings of a part of a tokenizer, with its `type`; that of a missing part is None."""
    return {"type": None} if part is None else json.loads(part.__getstate__())


def _has_joining_token(backend: Any) -> bool:
    """Returns whether an added token holds white space, or takes that next to a letter at its border along."""
    return any(
        re.search(r"\s", token.content)
        or ((token.lstrip or token.rstrip) and re.search(r"^\w|\w$", token.content))
        for token in backend.get_added_tokens_decoder().values()
    )
