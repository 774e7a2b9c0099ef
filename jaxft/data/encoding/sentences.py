"""Encodes sentences of words as windows of subwords with labels, so that each word is scored exactly once."""

import functools
import hashlib
import itertools
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa

from jaxft.data.encoding.cache import ChunkEncoders, load_or_encode
from jaxft.data.encoding.sentence_chunks import SentenceChunk, chunk_sentences
from jaxft.data.encoding.tokenizer import describe_tokenizer, find_special_tokens, tokenize
from jaxft.data.encoding.windows import Windows
from jaxft.data.ragged import copy_ragged, offsets_from_lengths, ragged_arange
from jaxft.data.sources.tagged_sentences.sentence import Sentence
from jaxft.errors import UserError

if TYPE_CHECKING:
    from tokenizers import Encoding
    from transformers import PreTrainedTokenizerBase

IGNORED = -100  # the label of a position without loss, as in torch.nn.CrossEntropyLoss
_FORMAT = 1  # part of the fingerprint; raise it if the same input starts to give different windows
# The most sentences and words in a call of the tokenizer, whose results are large objects.
_CALL_SENTENCES = 1024
_CALL_WORDS = 1 << 14
_CHUNK_WORDS = 1 << 17  # words in a cached chunk: about a second of work


class _Layout(NamedTuple):
    """The settings by which sentences are cut into windows, without the tokenizer and the labels."""

    prefix: list[int]  # special tokens before the words of a window
    suffix: list[int]  # special tokens after the words of a window
    room: int  # subwords in a window
    label_subwords: str
    context: bool
    stride: int


def encode_sentences(
    sentences: Sequence[Sentence],
    tokenizer: "PreTrainedTokenizerBase",
    label_ids: Mapping[str, int],
    *,
    max_length: int,
    label_subwords: str = "first",
    context: bool = False,
    stride: int | None = None,
    prompt_length: int = 0,
    cache_dir: str | os.PathLike[str] | None = None,
    only: range | None = None,
) -> Windows:
    """Encodes sentences as windows. Each word is in the core of exactly one window, which scores it.

    A sentence that fits `max_length` (special tokens included) is one window, and all of it is the core. A longer
    sentence is cut at word borders into consecutive cores. The words around a core fill the rest of its window, and are
    not scored there. With `context`, neighbouring sentences of the same document fill windows too. A word without
    subwords gets the unk token. A word longer than a window keeps its first subwords. A sentence without words has no
    window.

    Args:
      sentences: sentences with IOB2 tags, or with tags None. A word whose tag is not in `label_ids` has no loss but is
        scored.
      tokenizer: a fast Hugging Face tokenizer.
      label_ids: tag -> id.
      max_length: the most tokens in a window.
      label_subwords: the subwords of a word that carry its label. "first" is the first one. "last" is the last one,
        which in a causal model is the only one that sees the whole word. "all" is every subword; after the first, B-X
        becomes I-X.
      context: True if neighbouring sentences of the same document fill the room that a sentence leaves.
      stride: number of subwords that a long sentence's window keeps free for context; by default a quarter of the room.
      prompt_length: the number of slots to add before each window; see `add_prompt`.
      cache_dir: the folder that keeps windows, in an Arrow file for each fingerprint. Processes that share the folder
        share the work. If it cannot be read or written, a warning names the reason and the work is done without it.
      only: the range (of step 1) of sentences that get windows, while the others are context; by default all.
        Windows number the sentences of this range from 0.

    Raises:
      UserError: the settings cannot work, or a word has no tokens and the tokenizer has no unk token.
    """
    prefix, suffix = find_special_tokens(tokenizer)
    room = max_length - len(prefix) - len(suffix)
    stride = choose_stride(stride, room)
    if room < 1:
        raise UserError(
            f"max_length={max_length} leaves no room for words beside {len(prefix) + len(suffix)} special "
            "tokens; set data.max_length to 16 or more"
        )
    if not 0 <= stride < room:
        raise UserError(f"stride={stride} is outside 0..{room - 1}, what max_length={max_length} allows")
    if label_subwords not in ("first", "last", "all"):
        raise UserError(f"label_subwords={label_subwords!r} is unknown; expected 'first', 'last' or 'all'")
    path = None
    if cache_dir is not None:
        encoded = range(len(sentences)) if only is None else only
        settings = [max_length, label_subwords, context, stride, encoded.start, encoded.stop]
        path = pathlib.Path(cache_dir) / f"{_fingerprint(sentences, tokenizer, label_ids, settings)}.arrow"
    layout = _Layout(prefix, suffix, room, label_subwords, context, stride)

    def encoder(chunk: SentenceChunk, first_number: int) -> Callable[[], Iterable[Windows]]:
        return functools.partial(_encode, chunk, first_number, tokenizer, label_ids, layout)

    def make_encoders() -> ChunkEncoders:
        if only is not None:
            return {only: encoder(SentenceChunk(sentences, only.start, only.stop), 0)}
        encoders, start = {}, 0
        for chunk in chunk_sentences(sentences, _CHUNK_WORDS, max_length if context else 0):
            numbers = range(start, start + chunk.last - chunk.first)
            encoders[numbers] = encoder(chunk, start)
            start = numbers.stop
        return encoders or {range(0): encoder(SentenceChunk([], 0, 0), 0)}

    return load_or_encode(path, make_encoders, prompt_length)


def choose_stride(stride: int | None, room: int) -> int:
    """Returns `stride`, or by default a quarter of `room`, the number of subwords in a window."""
    return max(room, 0) // 4 if stride is None else stride


def _fingerprint(
    sentences: Sequence[Sentence],
    tokenizer: "PreTrainedTokenizerBase",
    label_ids: Mapping[str, int],
    settings: Sequence[object],
) -> str:
    """Hashes everything that windows depend on: words, tags, documents, tokenizer, labels, settings."""
    digest = hashlib.blake2b(digest_size=16)
    header = [
        _FORMAT,
        describe_tokenizer(tokenizer),
        tokenizer.unk_token_id,
        sorted(label_ids.items()),
        settings,
    ]
    digest.update(json.dumps(header, sort_keys=True).encode())
    for sentence in sentences:
        digest.update(repr((sentence.words, sentence.tags, sentence.document)).encode())
    return digest.hexdigest()


def _encode(
    chunk: SentenceChunk,
    first_number: int,
    tokenizer: "PreTrainedTokenizerBase",
    label_ids: Mapping[str, int],
    layout: _Layout,
) -> Iterator[Windows]:
    """Yields the windows of a chunk in one table; the sentence `chunk.first` gets the number `first_number`."""
    sentences = chunk.sentences
    word_offsets = offsets_from_lengths(
        [len(s.words) for s in sentences]
    )  # [S + 1] sentence -> its first word
    ids, subwords = _tokenize_words(sentences, tokenizer, word_offsets, layout.room)
    token_offsets = offsets_from_lengths(subwords)  # [W + 1] word -> its first token

    numbers = range(chunk.first, chunk.last)
    first, last, sentence = _cut_into_cores(word_offsets, token_offsets, layout, numbers)
    core_begin, core_end = token_offsets[first], token_offsets[last]
    low, high = _context_limits(sentences, sentence, word_offsets, layout.context)
    begin, end = _extend_cores(core_begin, core_end, token_offsets, low, high, layout.room)
    labels, word = _label_tokens(sentences, label_ids, word_offsets, token_offsets, layout.label_subwords)

    prefix, suffix = layout.prefix, layout.suffix
    offsets = offsets_from_lengths(end - begin + len(prefix) + len(suffix))
    input_ids = np.empty(offsets[-1], np.int32)
    for index, token in enumerate(prefix):
        input_ids[offsets[:-1] + index] = token
    for index, token in enumerate(suffix):
        input_ids[offsets[1:] - len(suffix) + index] = token
    copy_ragged(ids, begin, input_ids, offsets[:-1] + len(prefix), end - begin)
    core_places, core_sizes = offsets[:-1] + len(prefix) + core_begin - begin, core_end - core_begin
    window_labels = np.full(offsets[-1], IGNORED, np.int32)
    copy_ragged(labels, core_begin, window_labels, core_places, core_sizes)
    window_word = np.full(offsets[-1], -1, np.int32)
    copy_ragged(word, core_begin, window_word, core_places, core_sizes)

    columns = {
        name: pa.LargeListArray.from_arrays(offsets, pa.array(values))
        for name, values in (("input_ids", input_ids), ("labels", window_labels), ("word", window_word))
    }
    columns["sentence"] = pa.array((sentence + (first_number - chunk.first)).astype(np.int32))
    yield Windows(pa.RecordBatch.from_pydict(columns))


def _tokenize_words(
    sentences: Sequence[Sentence], tokenizer: "PreTrainedTokenizerBase", word_offsets: np.ndarray, room: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns all token ids `[T]` in order, and the number of tokens in each word `[W]`, from 1 to `room`."""
    ids, subwords, first_word = [np.empty(0, np.int32)], [np.empty(0, np.int64)], 0
    unk = tokenizer.unk_token_id
    for batch in _batch_words(sentences):
        batch_offsets = offsets_from_lengths([len(words) for words in batch])
        encodings = _call_tokenizer(tokenizer, batch)
        batch_ids = np.concatenate([np.asarray(encoding.ids, np.int32) for encoding in encodings])
        words = np.concatenate(
            [
                np.asarray(encoding.word_ids, np.int64) + offset
                for encoding, offset in zip(encodings, batch_offsets[:-1], strict=True)
            ]
        )
        counts = np.bincount(words, minlength=batch_offsets[-1])
        empty = np.flatnonzero(counts == 0)
        if len(empty) and unk is None:
            number = first_word + empty[0]
            sentence = int(np.searchsorted(word_offsets, number, side="right")) - 1
            word = sentences[sentence].words[number - word_offsets[sentence]]
            raise UserError(
                f"{sentences[sentence].origin}: the word {word!r} has no tokens, and the tokenizer has no unk "
                "token to stand for it; take such words out, or use a tokenizer with an unk token"
            )
        kept = np.minimum(counts, room)  # a word that is longer than a window keeps its beginning
        sizes = np.maximum(kept, 1)
        kept_ids = np.empty(int(sizes.sum()), np.int32)
        starts = offsets_from_lengths(sizes)[:-1]
        if len(empty):
            kept_ids[starts[empty]] = unk
        copy_ragged(batch_ids, offsets_from_lengths(counts)[:-1], kept_ids, starts, kept)
        ids.append(kept_ids)
        subwords.append(sizes)
        first_word += int(batch_offsets[-1])
    return np.concatenate(ids), np.concatenate(subwords)


def _batch_words(sentences: Sequence[Sentence]) -> Iterator[list[Sequence[str]]]:
    """Yields the words of sentences, as many as a call of the tokenizer gets; long sentences in pieces.

    Tokenizers read each word for itself, so a piece has the tokens of the whole.
    """
    batch: list[Sequence[str]] = []
    count = 0
    for sentence in sentences:
        for start in range(0, max(len(sentence.words), 1), _CALL_WORDS):
            batch.append(sentence.words[start : start + _CALL_WORDS])
            count += len(batch[-1])
            if len(batch) == _CALL_SENTENCES or count >= _CALL_WORDS:
                yield batch
                batch, count = [], 0
    if batch:
        yield batch


def _call_tokenizer(tokenizer: "PreTrainedTokenizerBase", batch: list[Sequence[str]]) -> list["Encoding"]:
    options = {"is_split_into_words": True, "return_token_type_ids": False}
    try:
        return tokenize(tokenizer, batch, **options)
    except TypeError:
        # Broken JSON escapes leave halves of surrogate pairs, which are not valid Unicode: drop them.
        batch = [[word.encode("utf-8", "ignore").decode() for word in words] for words in batch]
        return tokenize(tokenizer, batch, **options)


def _cut_into_cores(
    word_offsets: np.ndarray, token_offsets: np.ndarray, layout: _Layout, only: range
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cuts sentences into N cores; returns their first word, last word (exclusive) and sentence, each `[N]`."""
    numbers = np.arange(only.start, only.stop)
    first, last = word_offsets[numbers], word_offsets[numbers + 1]
    size = token_offsets[last] - token_offsets[first]
    is_one_core = (size <= layout.room) & (last > first)
    cores = [(first[is_one_core], last[is_one_core], numbers[is_one_core])]
    for sentence in numbers[size > layout.room]:
        word, end = word_offsets[sentence], word_offsets[sentence + 1]
        borders = [word]
        while word < end:
            limit = token_offsets[word] + layout.room - layout.stride
            word_after = np.searchsorted(token_offsets, limit, side="right") - 1
            word = min(max(word_after, word + 1), end)
            borders.append(word)
        limits = np.array(borders)
        cores.append((limits[:-1], limits[1:], np.full(len(limits) - 1, sentence)))
    first, last, sentence = (np.concatenate(column) for column in zip(*cores, strict=True))
    order = np.argsort(first)
    return first[order], last[order], sentence[order]


def _context_limits(
    sentences: Sequence[Sentence], sentence: np.ndarray, word_offsets: np.ndarray, context: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the first and last (exclusive) word that the window of each core may hold, `[N]` each.

    They bound the core's sentence or, with `context`, its document.
    """
    if not context:
        return word_offsets[sentence], word_offsets[sentence + 1]
    documents = np.fromiter((s.document for s in sentences), np.int64, len(sentences))
    borders = np.flatnonzero(np.diff(documents)) + 1
    borders = np.concatenate(([0], borders, [len(sentences)]))
    document = np.searchsorted(borders, sentence, side="right") - 1
    return word_offsets[borders[document]], word_offsets[borders[document + 1]]


def _extend_cores(
    core_begin: np.ndarray,
    core_end: np.ndarray,
    token_offsets: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    room: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Extends cores to windows of at most `room` tokens within words `[low, high)`; returns first and last token."""
    # Both sides share the room that a core leaves free, and each side takes the room that the other cannot use.
    free = room - (core_end - core_begin)
    left, right = core_begin - token_offsets[low], token_offsets[high] - core_end
    left = np.minimum(left, np.maximum(free // 2, free - right))
    # Windows hold whole words only, so room may remain on the left; it goes to the right.
    begin = token_offsets[np.searchsorted(token_offsets, core_begin - left, side="left")]
    right = np.minimum(right, free - (core_begin - begin))
    end = token_offsets[np.searchsorted(token_offsets, core_end + right, side="right") - 1]
    return begin, end


def _label_tokens(
    sentences: Sequence[Sentence],
    label_ids: Mapping[str, int],
    word_offsets: np.ndarray,
    token_offsets: np.ndarray,
    label_subwords: str,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the label id of each token or -100, and the index of the word it scores or -1; int32 `[T]` each."""
    tags: list[str | None] = list(
        itertools.chain.from_iterable(
            s.tags if s.tags is not None else itertools.repeat(None, len(s.words)) for s in sentences
        )
    )
    ids: dict[str | None, int] = dict(label_ids.items())  # a word without a tag has none
    word_labels = np.fromiter((ids.get(tag, IGNORED) for tag in tags), np.int32, len(tags))
    scored = token_offsets[1:] - 1 if label_subwords == "last" else token_offsets[:-1]
    if label_subwords == "all":
        inner_ids: dict[str | None, int] = {
            tag: label_ids.get("I-" + tag[2:], id_) if tag[:2] == "B-" else id_
            for tag, id_ in label_ids.items()
        }
        inner_labels = np.fromiter((inner_ids.get(tag, IGNORED) for tag in tags), np.int32, len(tags))
        labels = np.repeat(inner_labels, np.diff(token_offsets))
    else:
        labels = np.full(token_offsets[-1], IGNORED, np.int32)
    labels[scored] = word_labels
    word = np.full(token_offsets[-1], -1, np.int32)
    word[scored] = ragged_arange(0, np.diff(word_offsets))
    return labels, word
