"""Turns sentences of words into windows of subwords with labels, so that each word is scored exactly once."""

import collections
import functools
import hashlib
import itertools
import json
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from jaxft.data.encoding.cache import ChunkEncoders, load_or_encode
from jaxft.data.encoding.windows import Windows
from jaxft.data.ragged import offsets_from_lengths, ragged_arange
from jaxft.data.sources.sentence import Sentence
from jaxft.errors import UserError

IGNORED = -100  # the label of a position without loss, as in torch.nn.CrossEntropyLoss
_FORMAT = 1  # part of the fingerprint: raise it when the same input would give other windows
_TOKENIZER_BATCH = 1024  # sentences a call: bounds the tokenizer's own, heavy objects
_CHUNK_WORDS = 1 << 17  # words that are encoded, and cached, before others: about a second


class SentenceChunk(NamedTuple):
    """A part of a stream: sentences `first` up to `last` (exclusive) are its own, the others are context."""

    sentences: list[Sentence]
    first: int
    last: int


def chunk_sentences(
    stream: Iterable[Sentence], max_words: int, context_words: int = 0
) -> Iterator[SentenceChunk]:
    """Groups a stream into chunks of at most `max_words` words (or one sentence), in order.

    With `context_words` at least the `max_length` of `encode`, each chunk carries so many words of the
    neighbouring sentences of the same document that `encode(chunk.sentences, ..., context=True,
    only=range(chunk.first, chunk.last))` gives the windows that encoding the whole stream at once would.
    """
    stream = iter(stream)
    pending: collections.deque[Sentence] = collections.deque()  # read, but no chunk's own yet
    before: list[Sentence] = []

    def peek(index: int) -> Sentence | None:
        if index == len(pending):
            pending.extend(itertools.islice(stream, 1))
        return pending[index] if index < len(pending) else None

    while peek(0):
        own = [pending.popleft()]
        words = len(own[0].words)
        while (sentence := peek(0)) and words + len(sentence.words) <= max_words:
            own.append(pending.popleft())
            words += max(len(sentence.words), 1)  # empty ones take room too
        document = own[-1].document
        after = words = 0
        while words < context_words and (sentence := peek(after)) and sentence.document == document:
            words += len(sentence.words)
            after += 1
        following = list(itertools.islice(pending, after))
        yield SentenceChunk(before + own + following, len(before), len(before) + len(own))
        context: list[Sentence] = []
        words = 0
        for sentence in reversed(before + own):
            if words >= context_words or sentence.document != document:
                break
            context.append(sentence)
            words += len(sentence.words)
        before = context[::-1]


def encode_sentences(
    sentences: Sequence[Sentence],
    tokenizer,
    label_ids: Mapping[str, int],
    *,
    max_length: int,
    label_subwords: str = "first",
    context: bool = False,
    stride: int | None = None,
    cache_dir: str | os.PathLike | None = None,
    only: range | None = None,
) -> Windows:
    """Encodes sentences with a fast Hugging Face tokenizer; each word is in the core of exactly one window.

    A sentence that fits `max_length` (special tokens included) is one window. A longer one is cut at word
    borders into cores that tile it, and its other words fill the rest of each window, unscored. With
    `context` the neighbouring sentences of the same document do so too. A word that tokenizes to nothing
    gets the unk token; a word longer than a window keeps its first subwords. Sentences without words have
    no window.

    Args:
      sentences: tags are in IOB2, or None; a tag that `label_ids` lacks has no loss but is scored.
      label_ids: tag -> id.
      label_subwords: "first" puts the label on a word's first subword; "last" on its last one, which of a causal model
        is the first to see the whole word; "all" on each, B-X going on as I-X.
      stride: subwords of a long sentence's window that are kept free for context; default a quarter.
      cache_dir: where windows are kept, one Arrow file a fingerprint; processes that share it share the work. Where
        it cannot be read or written the reason is logged as a warning, and the work is done without it.
      only: the sentences (a range of step 1) that get windows, the others being context; default all.

    Raises UserError for settings that cannot work, or for a word without tokens where there is no unk token.
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
        own = range(len(sentences)) if only is None else only
        settings = [max_length, label_subwords, context, stride, own.start, own.stop]
        path = pathlib.Path(cache_dir) / f"{_fingerprint(sentences, tokenizer, label_ids, settings)}.arrow"
    rest = (tokenizer, label_ids, (prefix, suffix), room, label_subwords, context, stride)

    def parts() -> ChunkEncoders:
        if only is not None:
            return {
                only: functools.partial(_encode, SentenceChunk(sentences, only.start, only.stop), 0, *rest)
            }
        found, done = {}, 0
        for chunk in chunk_sentences(sentences, _CHUNK_WORDS, max_length if context else 0):
            own = range(done, done + chunk.last - chunk.first)
            found[own] = functools.partial(_encode, chunk, done - chunk.first, *rest)
            done = own.stop
        return found or {range(0): functools.partial(_encode, SentenceChunk([], 0, 0), 0, *rest)}

    return load_or_encode(path, parts)


def choose_stride(stride: int | None, room: int) -> int:
    """`stride`, or by default a quarter of the `room` that a window has for subwords."""
    return max(room, 0) // 4 if stride is None else stride


def find_special_tokens(tokenizer) -> tuple[list[int], list[int]]:
    """The token ids that the tokenizer puts before and after one text."""
    encoded = tokenizer([["a"]], is_split_into_words=True, truncation=False, padding=False)
    words = encoded.word_ids(0)
    ids = encoded["input_ids"][0]
    backbone = [index for index, word in enumerate(words) if word is not None]
    return ids[: backbone[0]], ids[backbone[-1] + 1 :]


def _fingerprint(
    sentences: Sequence[Sentence], tokenizer, label_ids: Mapping[str, int], settings: list
) -> str:
    """A hash of all that windows depend on: words, tags, documents, the whole tokenizer, labels, settings."""
    digest = hashlib.blake2b(digest_size=16)
    about = [
        _FORMAT,
        describe_tokenizer(tokenizer),
        tokenizer.unk_token_id,
        sorted(label_ids.items()),
        settings,
    ]
    digest.update(json.dumps(about, sort_keys=True).encode())
    for sentence in sentences:
        digest.update(repr((sentence.words, sentence.tags, sentence.document)).encode())
    return digest.hexdigest()


def describe_tokenizer(tokenizer) -> dict:
    """All that a tokenizer's results depend on, as JSON."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())
    # These two hold what the last call asked for, no property of the tokenizer.
    model.pop("truncation", None)
    model.pop("padding", None)
    return model


def _encode(
    chunk: SentenceChunk, shift: int, tokenizer, label_ids, special, room, label_subwords, context, stride
) -> Iterator[Windows]:
    """`shift`: of a sentence's number in the chunk to its number among all."""
    sentences, (prefix, suffix) = chunk.sentences, special
    words_of = offsets_from_lengths([len(s.words) for s in sentences])  # [S + 1] sentence -> its first word
    ids, subwords = _tokens(sentences, tokenizer, words_of, room)
    tokens_of = offsets_from_lengths(subwords)  # [W + 1] word -> its first token

    first, last, sentence = _cores(words_of, tokens_of, room, stride, range(chunk.first, chunk.last))
    low, high = words_of[sentence], words_of[sentence + 1]
    if context:
        documents = np.fromiter((s.document for s in sentences), np.int64, len(sentences))
        borders = np.flatnonzero(np.diff(documents)) + 1
        borders = np.concatenate(([0], borders, [len(sentences)]))
        document = np.searchsorted(borders, sentence, side="right") - 1
        low, high = words_of[borders[document]], words_of[borders[document + 1]]
    # Share what the core leaves free between both sides, each taking what the other cannot use.
    free = room - (tokens_of[last] - tokens_of[first])
    left, right = tokens_of[first] - tokens_of[low], tokens_of[high] - tokens_of[last]
    left = np.minimum(left, np.maximum(free // 2, free - right))
    # Only whole words are taken; what that leaves on the left goes to the right.
    begin = tokens_of[np.searchsorted(tokens_of, tokens_of[first] - left, side="left")]
    right = np.minimum(right, free - (tokens_of[first] - begin))
    end = tokens_of[np.searchsorted(tokens_of, tokens_of[last] + right, side="right") - 1]

    labels, word = _targets(sentences, label_ids, words_of, tokens_of, label_subwords)
    offsets = offsets_from_lengths(end - begin + len(prefix) + len(suffix))
    input_ids = np.empty(offsets[-1], np.int32)
    for index, token in enumerate(prefix):
        input_ids[offsets[:-1] + index] = token
    for index, token in enumerate(suffix):
        input_ids[offsets[1:] - len(suffix) + index] = token
    input_ids[ragged_arange(offsets[:-1] + len(prefix), end - begin)] = ids[ragged_arange(begin, end - begin)]
    core = tokens_of[last] - tokens_of[first]
    source = ragged_arange(tokens_of[first], core)
    target = ragged_arange(offsets[:-1] + len(prefix) + tokens_of[first] - begin, core)
    window_labels = np.full(offsets[-1], IGNORED, np.int32)
    window_labels[target] = labels[source]
    window_word = np.full(offsets[-1], -1, np.int32)
    window_word[target] = word[source]

    columns = {
        name: pa.LargeListArray.from_arrays(offsets, pa.array(values))
        for name, values in (("input_ids", input_ids), ("labels", window_labels), ("word", window_word))
    }
    columns["sentence"] = pa.array((sentence + shift).astype(np.int32))
    yield Windows(pa.RecordBatch.from_pydict(columns))


def _tokens(sentences, tokenizer, words_of, room) -> tuple[np.ndarray, np.ndarray]:
    """Token ids `[T]` in order, and the number of them in each word `[W]`, from 1 to `room`."""
    id_parts, word_parts = [], []
    for start in range(0, len(sentences), _TOKENIZER_BATCH):
        batch = [s.words for s in sentences[start : start + _TOKENIZER_BATCH]]
        for offset, encoding in enumerate(_call(tokenizer, batch).encodings):
            id_parts.append(np.asarray(encoding.ids, np.int32))
            word_parts.append(np.asarray(encoding.word_ids, np.int64) + words_of[start + offset])
    ids = np.concatenate(id_parts) if id_parts else np.empty(0, np.int32)
    words = np.concatenate(word_parts) if word_parts else np.empty(0, np.int64)
    found = np.bincount(words, minlength=words_of[-1])
    empty = np.flatnonzero(found == 0)
    unk = tokenizer.unk_token_id
    if len(empty) and unk is None:
        sentence = int(np.searchsorted(words_of, empty[0], side="right")) - 1
        lost = sentences[sentence].words[empty[0] - words_of[sentence]]
        raise UserError(
            f"{sentences[sentence].origin}: the word {lost!r} has no tokens, and the tokenizer has no unk "
            "token to stand for it; take such words out, or use a tokenizer with an unk token"
        )
    kept = np.minimum(found, room)  # a word that no window holds keeps its beginning
    subwords = np.maximum(kept, 1)
    out = np.empty(int(subwords.sum()), np.int32)
    starts = offsets_from_lengths(subwords)[:-1]
    if len(empty):
        out[starts[empty]] = unk
    out[ragged_arange(starts, kept)] = ids[ragged_arange(offsets_from_lengths(found)[:-1], kept)]
    return out, subwords


def _call(tokenizer, batch: list[list[str]]):
    settings = {
        "is_split_into_words": True,
        "add_special_tokens": False,
        "truncation": False,
        "padding": False,
        "return_attention_mask": False,
        "return_token_type_ids": False,
        "verbose": False,
    }
    try:
        return tokenizer(batch, **settings)
    except TypeError:
        # Halves of surrogate pairs, as broken JSON escapes leave them, are no Unicode text: drop them.
        return tokenizer(
            [[word.encode("utf-8", "ignore").decode() for word in words] for words in batch], **settings
        )


def _cores(words_of, tokens_of, room, stride, only: range) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cuts sentences into cores: first word `[N]`, last word (exclusive) `[N]`, sentence `[N]`."""
    chosen = np.arange(only.start, only.stop)
    first, last = words_of[chosen], words_of[chosen + 1]
    size = tokens_of[last] - tokens_of[first]
    short = (size <= room) & (last > first)
    parts = [(first[short], last[short], chosen[short])]
    for sentence in chosen[size > room]:
        word, end = words_of[sentence], words_of[sentence + 1]
        borders = [word]
        while word < end:
            fits = np.searchsorted(tokens_of, tokens_of[word] + room - stride, side="right") - 1
            word = min(max(fits, word + 1), end)
            borders.append(word)
        borders = np.array(borders)
        parts.append((borders[:-1], borders[1:], np.full(len(borders) - 1, sentence)))
    first, last, sentence = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(first)
    return first[order], last[order], sentence[order]


def _targets(sentences, label_ids, words_of, tokens_of, label_subwords) -> tuple[np.ndarray, np.ndarray]:
    """At each token: its label id or -100, and the index of the word it scores or -1; int32 `[T]` each."""
    tags = itertools.chain.from_iterable(
        s.tags if s.tags is not None else itertools.repeat(None, len(s.words)) for s in sentences
    )
    tags = list(tags)
    label = np.fromiter((label_ids.get(tag, IGNORED) for tag in tags), np.int32, len(tags))
    scored = tokens_of[1:] - 1 if label_subwords == "last" else tokens_of[:-1]
    if label_subwords == "all":
        inner = {
            tag: label_ids.get("I-" + tag[2:], id) if tag[:2] == "B-" else id for tag, id in label_ids.items()
        }
        rest = np.fromiter((inner.get(tag, IGNORED) for tag in tags), np.int32, len(tags))
        labels = np.repeat(rest, np.diff(tokens_of))
    else:
        labels = np.full(tokens_of[-1], IGNORED, np.int32)
    labels[scored] = label
    word = np.full(tokens_of[-1], -1, np.int32)
    word[scored] = ragged_arange(0, np.diff(words_of))
    return labels, word
