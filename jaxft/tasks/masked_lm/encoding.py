"""Encodes texts as windows of tokens, each between the tokenizer's special tokens, whose tokens may be masked."""

import functools
import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa

from jaxft.data.encoding.cache import CHUNK_CHARACTERS, ChunkEncoders, load_or_encode, split_by_size
from jaxft.data.encoding.documents import cut_documents
from jaxft.data.encoding.sentences import IGNORED
from jaxft.data.encoding.text_tokens import tokenize_pieces
from jaxft.data.encoding.tokenizer import describe_tokenizer, make_frame
from jaxft.data.encoding.windows import Windows
from jaxft.data.ragged import offsets_from_lengths, ragged_arange
from jaxft.data.sources.documents import Document
from jaxft.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_FORMAT = 1  # part of the fingerprint; raise it if the same input starts to give different windows


class _Special(NamedTuple):
    """The ids of special tokens: those before and after a text, all, and that of given masks, see `encode_texts`."""

    before: list[int]
    after: list[int]
    every: list[int]
    given_mask: int | None


class _Stream(NamedTuple):
    """The tokens of texts, one after another.

    Attributes:
      ids: int32 `[T]`.
      words: int32 `[T]`, the number of the word that a token is of; -1 for one that gets no label.
      lengths: int64 `[texts]`.
    """

    ids: np.ndarray
    words: np.ndarray
    lengths: np.ndarray


def encode_texts(
    texts: Sequence[Document],
    tokenizer: "PreTrainedTokenizerBase",
    *,
    max_length: int,
    layout: str = "documents",
    stride: int | None = None,
    given_mask: int | None = None,
    prompt_length: int = 0,
    cache_dir: Path | None = None,
) -> Windows:
    """Encodes texts as windows of at most `max_length` tokens, special tokens included.

    The windows have these columns besides `input_ids`:

    - `labels`: the id of each token that may be masked; -100 at special tokens and at context.
    - `word`: the number of the word that such a token is of, the same for neighbours of one word; else -1. Words are
      what the tokenizer splits into tokens: of BERT's, what spaces and punctuation separate.
    - `sentence`: the index of the text, or of the block.

    Layout "documents": each document has windows of its own. All but its first begin with `stride` (default 0) tokens
    of context, which the window before may mask.

    Layout "blocks": all documents are joined, with the tokens that the tokenizer puts after a text behind each of them,
    and cut into blocks. Source: FULL-SENTENCES of RoBERTa (Liu et al. 2019, section 4.2).

    Args:
      texts: the texts.
      tokenizer: a fast Hugging Face tokenizer.
      max_length: the most tokens in a window.
      layout: "documents" or "blocks".
      stride: number of context tokens at the start of a document's later windows.
      given_mask: the id of the mask token, if the texts have masks; these alone then have labels, which say nothing.
      prompt_length: the number of slots to add before each window; see `add_prompt`.
      cache_dir: the folder of the cache; None for no cache.

    Raises:
      UserError: settings cannot work.
    """
    frame = make_frame(tokenizer, has_pair=False)
    special = _Special(frame.before, frame.after, sorted(tokenizer.all_special_ids), given_mask)
    room = max_length - frame.size
    if layout == "blocks" and stride is not None:
        raise UserError(
            "config.data.layout='blocks' cuts text anywhere, so config.data.stride does not go with it"
        )
    if room < 1 or not 0 <= (stride or 0) < room:
        raise UserError(
            f"config.data.max_length={max_length} and config.data.stride={stride}: a window has room for {room} tokens "
            f"of text besides {frame.size} special tokens; expected at least one, and more than the stride"
        )
    path = None
    if cache_dir is not None:
        path = cache_dir / f"{_fingerprint(texts, tokenizer, special, max_length, layout, stride)}.arrow"

    def make_encoders() -> ChunkEncoders:
        chunks = split_by_size((len(text.text) for text in texts), CHUNK_CHARACTERS)
        # A chunk begins with the rest of the previous one, so one process encodes all chunks.
        if layout == "blocks":
            encode_all = functools.partial(_encode_blocks, texts, tokenizer, special, room, chunks)
            return {range(len(texts)): encode_all}
        encode = functools.partial(_encode_documents, texts, tokenizer, special, room, stride or 0)
        return {chunk: functools.partial(encode, chunk) for chunk in chunks}

    return load_or_encode(path, make_encoders, prompt_length)


def _fingerprint(
    texts: Sequence[Document],
    tokenizer: "PreTrainedTokenizerBase",
    special: _Special,
    max_length: int,
    layout: str,
    stride: int | None,
) -> str:
    header = ["masked", _FORMAT, describe_tokenizer(tokenizer), special, max_length, layout, stride]
    digest = hashlib.blake2b(json.dumps(header, sort_keys=True).encode(), digest_size=16)
    for text in texts:
        digest.update(repr(text.text).encode())
    return digest.hexdigest()


def _make_stream(
    texts: Sequence[Document], tokenizer: "PreTrainedTokenizerBase", special: _Special
) -> _Stream:
    """Tokenizes texts."""
    all_ids, all_begins, lengths = [], [], np.zeros(len(texts), np.int64)
    for pieces, encodings in tokenize_pieces(tokenizer, [text.text for text in texts]):
        counts = np.array([len(encoding) for encoding in encodings], np.int64)
        np.add.at(lengths, [number for number, _, _ in pieces], counts)
        total = int(counts.sum())
        piece_ids = itertools.chain.from_iterable(encoding.ids for encoding in encodings)
        words = itertools.chain.from_iterable(encoding.word_ids for encoding in encodings)
        word = np.fromiter((-1 if number is None else number for number in words), np.int64, total)
        piece_begins = np.append(True, word[1:] != word[:-1])[:total]
        piece_begins[offsets_from_lengths(counts)[:-1][counts > 0]] = True
        all_ids.append(np.fromiter(piece_ids, np.int32, total))
        all_begins.append(piece_begins)
    ids, begins = np.concatenate(all_ids), np.concatenate(all_begins)
    if special.given_mask is None:
        has_label = ~np.isin(ids, special.every)
    else:
        has_label = ids == special.given_mask
    return _Stream(ids, np.where(has_label, np.cumsum(begins) - 1, -1).astype(np.int32), lengths)


def _encode_documents(
    texts: Sequence[Document],
    tokenizer: "PreTrainedTokenizerBase",
    special: _Special,
    room: int,
    stride: int,
    chunk: range,
) -> Iterator[Windows]:
    """Yields the windows of the documents `chunk`, in tables of bounded size."""
    stream = _make_stream(texts[chunk.start : chunk.stop], tokenizer, special)
    for begin, maskable, end, text in cut_documents(stream.lengths, room, stride):
        yield _cut_windows(stream, begin, maskable, end, chunk.start + text, special)


def _encode_blocks(
    texts: Sequence[Document],
    tokenizer: "PreTrainedTokenizerBase",
    special: _Special,
    room: int,
    chunks: Sequence[range],
) -> Iterator[Windows]:
    """Yields the blocks of all documents. The tokens that do not fill a block begin the next chunk's first block."""
    done, rest = 0, (np.empty(0, np.int32), np.empty(0, np.int32))
    for chunk, first_word in zip(chunks, itertools.cycle((0, 1 << 30)), strict=False):
        stream = _make_stream(texts[chunk.start : chunk.stop], tokenizer, special)
        words = np.where(stream.words < 0, -1, stream.words + first_word).astype(np.int32)
        ends = np.repeat(np.cumsum(stream.lengths), len(special.after))
        after = np.tile(np.array(special.after, np.int32), len(stream.lengths))
        columns = np.insert(stream.ids, ends, after), np.insert(words, ends, -1)
        ids, words = (np.concatenate(pair) for pair in zip(rest, columns, strict=True))
        is_last = chunk.stop == len(texts)
        count = -(-len(ids) // room) if is_last else len(ids) // room
        begin = np.arange(count) * room
        rest = ids[count * room :], words[count * room :]
        end = np.minimum(begin + room, len(ids))
        if count:
            joined = _Stream(ids, words, np.array([len(ids)]))
            yield _cut_windows(joined, begin, begin, end, done + np.arange(count), special)
        done += count


def _cut_windows(
    stream: _Stream,
    begin: np.ndarray,
    maskable: np.ndarray,
    end: np.ndarray,
    sentence: np.ndarray,
    special: _Special,
) -> Windows:
    """Cuts windows `[begin, end)` out of a stream; tokens in `[maskable, end)` may be masked. All int64 `[N]`."""
    before, after = len(special.before), len(special.after)
    size = end - begin
    offsets = offsets_from_lengths(size + before + after)
    source = ragged_arange(begin, size)
    target = ragged_arange(offsets[:-1] + before, size)
    input_ids = np.empty(offsets[-1], np.int32)
    input_ids[target] = stream.ids[source]
    for index, token in enumerate(special.before):
        input_ids[offsets[:-1] + index] = token
    for index, token in enumerate(special.after):
        input_ids[offsets[1:] - after + index] = token
    word = np.full(offsets[-1], -1, np.int32)
    word[target] = np.where(source >= np.repeat(maskable, size), stream.words[source], -1)
    labels = np.where(word >= 0, input_ids, IGNORED).astype(np.int32)
    columns = {"input_ids": input_ids, "labels": labels, "word": word}
    lists = {
        name: pa.LargeListArray.from_arrays(pa.array(offsets), values) for name, values in columns.items()
    }
    return Windows(pa.RecordBatch.from_pydict(lists | {"sentence": pa.array(np.asarray(sentence, np.int32))}))
