"""Tokenizes documents, and counts the words and bytes of text that each token spells."""

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from jaxft.data.encoding.tokenizer import tokenize_in_batches
from jaxft.data.ragged import offsets_from_lengths

_IS_WHITE = np.array([chr(code).isspace() for code in range(0x3002)])  # no white space has a higher code


class TokenStream(NamedTuple):
    """The tokens of all texts, with an end token after each text, and the amount of text that each token spells."""

    ids: np.ndarray  # int32 [T]
    word_counts: np.ndarray  # int32 [T]: words that begin in the token
    byte_counts: np.ndarray  # int32 [T]
    lengths: np.ndarray  # int64 [texts], end tokens included


def make_token_stream(texts: Sequence[str], tokenizer, end: int) -> TokenStream:
    """Tokenizes texts and adds the token `end` after each."""
    batches = []
    for batch, encodings in tokenize_in_batches(tokenizer, texts):
        ids_by_text = [encoding.ids for encoding in encodings]
        lengths = np.array([len(ids) for ids in ids_by_text], np.int64)
        ids = np.fromiter(itertools.chain.from_iterable(ids_by_text), np.int32, lengths.sum())
        ends = np.cumsum(lengths)
        word_counts, byte_counts = _count_words_and_bytes(batch, encodings)
        batches.append(
            (
                np.insert(ids, ends, end),
                np.insert(word_counts, ends, 0),
                np.insert(byte_counts, ends, 0),
                lengths + 1,
            )
        )
    ids, word_counts, byte_counts, lengths = (np.concatenate(column) for column in zip(*batches, strict=True))
    return TokenStream(ids, word_counts.astype(np.int32), byte_counts.astype(np.int32), lengths)


class TextTokens(NamedTuple):
    """The token ids of one text, and the amount of text that each token spells."""

    ids: list[int]
    word_counts: np.ndarray  # int64 [tokens]
    byte_counts: np.ndarray  # int64 [tokens]


def tokenize_with_counts(texts: Sequence[str], tokenizer) -> Iterator[TextTokens]:
    """Yields the tokens of each text, with the numbers of words and bytes that they spell."""
    for batch, encodings in tokenize_in_batches(tokenizer, texts):
        word_counts, byte_counts = _count_words_and_bytes(batch, encodings)
        offsets = offsets_from_lengths([len(encoding.ids) for encoding in encodings])
        for encoding, begin, end in zip(encodings, offsets[:-1], offsets[1:], strict=True):
            yield TextTokens(encoding.ids, word_counts[begin:end], byte_counts[begin:end])


def _count_words_and_bytes(texts: Sequence[str], encodings: Sequence) -> tuple[np.ndarray, np.ndarray]:
    """Counts the words and bytes that begin in each token: int64 `[tokens of all texts]` each.

    The counts of a text's tokens add up to the counts of the text. Characters that the tokenizer leaves out count for
    the token before them, or for the last token.
    """
    tokens = np.array([len(encoding.ids) for encoding in encodings], np.int64)
    # The position of each text's first character when all texts are joined, and the end of the last text.
    text_offsets = offsets_from_lengths([len(text) for text in texts])
    spans = itertools.chain.from_iterable(encoding.offsets for encoding in encodings)
    ends = np.fromiter((end for _, end in spans), np.int64, tokens.sum())
    ends = np.maximum.accumulate(ends + np.repeat(text_offsets[:-1], tokens))
    token_offsets, has_tokens = offsets_from_lengths(tokens), tokens > 0
    ends[token_offsets[1:][has_tokens] - 1] = text_offsets[1:][has_tokens]
    begins = np.roll(ends, 1)
    begins[token_offsets[:-1][has_tokens]] = text_offsets[:-1][has_tokens]

    codes = np.frombuffer("".join(texts).encode("utf-32-le"), np.uint32)
    is_white = _IS_WHITE[np.minimum(codes, len(_IS_WHITE) - 1)]
    is_after_white = np.roll(is_white, 1)
    is_after_white[text_offsets[:-1][text_offsets[:-1] < len(codes)]] = (
        True  # the first character of each text
    )
    words_before = offsets_from_lengths(~is_white & is_after_white)
    utf8_lengths = 1 + (codes >= 0x80).astype(np.int64) + (codes >= 0x800) + (codes >= 0x10000)
    bytes_before = offsets_from_lengths(utf8_lengths)
    return words_before[ends] - words_before[begins], bytes_before[ends] - bytes_before[begins]
