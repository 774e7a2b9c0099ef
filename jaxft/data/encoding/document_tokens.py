"""Tokenizes documents, and counts the words and bytes of text that each token spells."""

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from jaxft.data.encoding.text_tokens import TextPiece, tokenize_pieces
from jaxft.data.ragged import offsets_from_lengths

if TYPE_CHECKING:
    from tokenizers import Encoding
    from transformers import PreTrainedTokenizerBase

_IS_WHITE = np.array([chr(code).isspace() for code in range(0x3002)])  # no white space has a higher code


class TokenStream(NamedTuple):
    """The tokens of all texts, with an end token after each text, and the amount of text that each token spells."""

    ids: np.ndarray  # int32 [T]
    word_counts: np.ndarray  # int32 [T]: words that begin in the token
    byte_counts: np.ndarray  # int32 [T]
    lengths: np.ndarray  # int64 [texts], end tokens included


def make_token_stream(texts: Sequence[str], tokenizer: "PreTrainedTokenizerBase", end: int) -> TokenStream:
    """Tokenizes texts and adds the token `end` after each."""
    columns, lengths = [], np.zeros(len(texts), np.int64)
    for pieces, encodings in tokenize_pieces(tokenizer, texts):
        counts = np.array([len(encoding) for encoding in encodings], np.int64)
        np.add.at(lengths, [number for number, _, _ in pieces], counts)
        ids = np.fromiter(
            itertools.chain.from_iterable(encoding.ids for encoding in encodings), np.int32, counts.sum()
        )
        columns.append((ids, *_count_words_and_bytes(pieces, encodings)))
    ends = np.cumsum(lengths)
    ids, word_counts, byte_counts = (np.concatenate(column) for column in zip(*columns, strict=True))
    return TokenStream(
        np.insert(ids, ends, end),
        np.insert(word_counts, ends, 0),
        np.insert(byte_counts, ends, 0),
        lengths + 1,
    )


def _count_words_and_bytes(
    pieces: Sequence[TextPiece], encodings: Sequence["Encoding"]
) -> tuple[np.ndarray, np.ndarray]:
    """Counts the words and bytes that begin in each token: int32 `[tokens of all pieces]` each.

    The counts of a piece's tokens add up to the counts of the piece. Characters that the tokenizer leaves out count for
    the token before them, or for the last token.
    """
    tokens = np.array([len(encoding) for encoding in encodings], np.int64)
    # The position of each piece's first character when all pieces are joined, and the end of the last piece.
    text_offsets = offsets_from_lengths([len(content) for _, _, content in pieces])
    spans = itertools.chain.from_iterable(encoding.offsets for encoding in encodings)
    ends = np.fromiter((end for _, end in spans), np.int64, tokens.sum())
    ends = np.maximum.accumulate(ends + np.repeat(text_offsets[:-1], tokens))
    token_offsets, has_tokens = offsets_from_lengths(tokens), tokens > 0
    ends[token_offsets[1:][has_tokens] - 1] = text_offsets[1:][has_tokens]
    begins = np.roll(ends, 1)
    begins[token_offsets[:-1][has_tokens]] = text_offsets[:-1][has_tokens]

    text = "".join(content for _, _, content in pieces)
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    is_white = _IS_WHITE[np.minimum(codes, len(_IS_WHITE) - 1)]
    is_after_white = np.roll(is_white, 1)
    has_characters = text_offsets[:-1] < len(codes)
    begins_text = np.array([not start for _, start, _ in pieces])
    is_after_white[text_offsets[:-1][has_characters]] = begins_text[has_characters]
    words_before = offsets_from_lengths(~is_white & is_after_white)
    utf8_lengths = 1 + (codes >= 0x80).astype(np.int64) + (codes >= 0x800) + (codes >= 0x10000)
    bytes_before = offsets_from_lengths(utf8_lengths)
    word_counts, byte_counts = (before[ends] - before[begins] for before in (words_before, bytes_before))
    return word_counts.astype(np.int32), byte_counts.astype(np.int32)
