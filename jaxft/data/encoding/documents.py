"""Turns texts into windows of tokens for a language model, so that each token is predicted exactly once.

Labels are shifted: the label at a position is the token after it, so that inputs and labels of a window differ by
one place and no text is lost between windows. The token at the end of a text is only ever a label.
"""

import functools
import hashlib
import itertools
import json
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from jaxft.data.encoding.cache import ChunkEncoders, load_or_encode, split_by_size
from jaxft.data.encoding.sentences import IGNORED, describe_tokenizer
from jaxft.data.encoding.windows import Windows
from jaxft.data.ragged import offsets_from_lengths, ragged_arange
from jaxft.data.sources.documents import Document
from jaxft.errors import UserError

LAYOUTS = ("documents", "blocks")
_FORMAT = 1  # part of the fingerprint: raise it when the same input would give other windows
_TOKENIZER_BATCH = 256  # texts a call: bounds the tokenizer's own, heavy objects
_WHITE = np.array([chr(code).isspace() for code in range(0x3002)])  # none is beyond
CHUNK_CHARACTERS = 1 << 21  # characters that are encoded, and cached, before others: bounds memory


class BoundaryTokens(NamedTuple):
    """Tokens before and after a text; GPT-2 has one for both."""

    start: int
    end: int


def find_boundary_tokens(tokenizer) -> BoundaryTokens:
    """The tokenizer's tokens at a text's start and end. Raises `UserError` where it has none."""
    end = tokenizer.eos_token_id
    if end is None:
        raise UserError(
            "the tokenizer has no end-of-text token, so no model can learn where a text ends; choose another "
            "checkpoint, or set eos_token in its tokenizer_config.json"
        )
    return BoundaryTokens(end if tokenizer.bos_token_id is None else tokenizer.bos_token_id, end)


def encode_documents(
    texts: Sequence[Document],
    tokenizer,
    *,
    max_length: int,
    layout: str = "documents",
    stride: int | None = None,
    cache_dir: str | os.PathLike | None = None,
) -> Windows:
    """Windows of at most `max_length` tokens, with columns `text_words` and `text_bytes` (int32 `[N]`).

    Those two count the words (between white space) and UTF-8 bytes of the text that a window predicts. The
    column `word` is -1 throughout, `sentence` the index of the text, or of the block. Pairs have columns
    `prompt_lost` and `target_lost`, the tokens that did not fit.

    documents: each document begins with the start token, and its tokens and the end token are predicted once.
    One longer than a window is cut into several; `stride` (default 0) tokens of context, predicted in the window
    before, stand at the beginning of each but the first. Prompt and target are one window: the target's tokens
    and the end token are predicted; where they don't fit the prompt is shortened, and where that isn't enough
    the target, which then has no end. blocks: all documents, an end token after each, in a row, cut into blocks
    of `max_length`; the rest that fills no block is dropped, and a block's first token is not predicted.
    Source: `group_texts` of transformers' run_clm.py.

    cache_dir: as in `tokenize.encode`.

    Raises UserError for settings that cannot work.
    """
    special, pairs = find_boundary_tokens(tokenizer), bool(texts) and texts[0].prompt is not None
    if layout == "blocks" and (pairs or stride is not None):
        what = "config.data.template" if pairs else "config.data.stride"
        raise UserError(f"config.data.layout='blocks' cuts text anywhere, so {what} does not go with it")
    if stride is not None and not 0 <= stride < max_length:
        raise UserError(f"config.data.stride={stride}: expected 0 to {max_length - 1}, less than max_length")
    path = None
    if cache_dir is not None:
        path = pathlib.Path(cache_dir) / f"{_fingerprint(texts, tokenizer, max_length, layout, stride)}.arrow"

    def parts() -> ChunkEncoders:
        found = split_by_size((len(text.prompt or "") + len(text.text) for text in texts), CHUNK_CHARACTERS)
        if layout == "blocks":  # which begin where those of the part before end
            return {
                range(len(texts)): functools.partial(_blocks, found, texts, tokenizer, max_length, special)
            }
        if pairs:
            encoder = functools.partial(_pairs, texts, tokenizer, max_length, special)
        else:
            encoder = functools.partial(_documents, texts, tokenizer, max_length, stride or 0, special)
        return {part: functools.partial(encoder, part) for part in found}

    return load_or_encode(path, parts)


def _fingerprint(texts, tokenizer, max_length, layout, stride) -> str:
    about = [
        _FORMAT,
        describe_tokenizer(tokenizer),
        find_boundary_tokens(tokenizer),
        max_length,
        layout,
        stride,
    ]
    digest = hashlib.blake2b(json.dumps(about, sort_keys=True).encode(), digest_size=16)
    for text in texts:
        digest.update(repr((text.prompt, text.cuttable, text.text)).encode())
    return digest.hexdigest()


def _batches(texts: Sequence[str], tokenizer) -> Iterator[tuple[Sequence[str], list]]:
    """Some texts and their encodings after the other."""
    for start in range(0, len(texts), _TOKENIZER_BATCH):
        some = texts[start : start + _TOKENIZER_BATCH]
        yield (
            some,
            tokenizer(
                some,
                add_special_tokens=False,
                truncation=False,
                padding=False,
                return_attention_mask=False,
                verbose=False,
            ).encodings,
        )


def _encodings(texts: Sequence[str], tokenizer) -> Iterator:
    for _, encodings in _batches(texts, tokenizer):
        yield from encodings


def _counted(texts: Sequence[str], tokenizer) -> Iterator[tuple]:
    """Of each text its encoding, and what `_sizes` gives for it."""
    for some, encodings in _batches(texts, tokenizer):
        words, size = _sizes(some, encodings)
        place = offsets_from_lengths([len(encoding.ids) for encoding in encodings])
        for encoding, begin, end in zip(encodings, place, place[1:], strict=False):
            yield encoding, words[begin:end], size[begin:end]


class _Stream(NamedTuple):
    """Tokens of all texts, the end token after each, and what of the text each token stands for."""

    ids: np.ndarray  # int32 [T]
    words: np.ndarray  # int32 [T]: how many words begin in the token
    bytes: np.ndarray  # int32 [T]
    lengths: np.ndarray  # int64 [texts], end tokens included


def _stream(texts: Sequence[Document], tokenizer, end: int) -> _Stream:
    parts = []
    for some, encodings in _batches([t.text for t in texts], tokenizer):
        ids = [encoding.ids for encoding in encodings]
        lengths = np.array([len(one) for one in ids], np.int64)
        flat = np.fromiter(itertools.chain.from_iterable(ids), np.int32, lengths.sum())
        ends = np.cumsum(lengths)
        columns = ((flat, end), *((column, 0) for column in _sizes(some, encodings)))
        parts.append((*(np.insert(column, ends, value) for column, value in columns), lengths + 1))
    ids, words, size, lengths = (np.concatenate(column) for column in zip(*parts, strict=True))
    return _Stream(ids, words.astype(np.int32), size.astype(np.int32), lengths)


def _sizes(texts: Sequence[str], encodings: Sequence) -> tuple[np.ndarray, np.ndarray]:
    """Words and bytes that begin in each token: int64 `[tokens of all texts]`; a text's add up to its own.

    What the tokenizer leaves out belongs to the token before it, or the last.
    """
    tokens = np.array([len(encoding.ids) for encoding in encodings], np.int64)
    first = offsets_from_lengths(
        [len(text) for text in texts]
    )  # character of each text, were they one; and the end
    offsets = itertools.chain.from_iterable(encoding.offsets for encoding in encodings)
    ends = np.fromiter((end for _, end in offsets), np.int64, tokens.sum()) + np.repeat(first[:-1], tokens)
    ends = np.maximum.accumulate(ends)
    place, some = offsets_from_lengths(tokens), tokens > 0
    ends[place[1:][some] - 1] = first[1:][some]
    begins = np.roll(ends, 1)
    begins[place[:-1][some]] = first[:-1][some]

    code = np.frombuffer("".join(texts).encode("utf-32-le"), np.uint32)
    white = _WHITE[np.minimum(code, len(_WHITE) - 1)]
    after_white = np.roll(white, 1)
    after_white[first[:-1][first[:-1] < len(code)]] = True  # at a text's beginning
    columns = ~white & after_white, 1 + (code >= 0x80).astype(np.int64) + (code >= 0x800) + (code >= 0x10000)
    words, size = (before[ends] - before[begins] for before in map(offsets_from_lengths, columns))
    return words, size


def _documents(
    texts, tokenizer, max_length: int, stride: int, special: BoundaryTokens, part: range
) -> Iterator[Windows]:
    stream = _stream(texts[part.start : part.stop], tokenizer, special.end)
    first_of = offsets_from_lengths(stream.lengths)  # a text's first label; inputs are these shifted by one
    inputs = np.empty_like(stream.ids)
    inputs[1:] = stream.ids[:-1]
    inputs[first_of[:-1]] = special.start
    step = max_length - stride
    # The first window predicts max_length tokens, each later one `step`.
    count = 1 + -(-np.maximum(stream.lengths - max_length, 0) // step)
    text = np.repeat(np.arange(len(part)), count)
    number = ragged_arange(0, count)
    scored = np.where(number == 0, 0, max_length + (number - 1) * step)
    begin = np.where(number == 0, 0, scored - stride)
    last = np.minimum(begin + max_length, stream.lengths[text])
    begin, scored, last = (first_of[text] + place for place in (begin, scored, last))
    yield _windows(inputs, stream.ids, begin, scored, last, part.start + text, stream)


def _blocks(parts: list[range], texts, tokenizer, length: int, special: BoundaryTokens) -> Iterator[Windows]:
    """Of each part whole blocks; what fills none goes with the next part."""
    rest, done = None, 0
    for part in parts:
        stream = _stream(texts[part.start : part.stop], tokenizer, special.end)
        columns = [stream.ids, stream.words, stream.bytes]
        if rest is not None:
            columns = [np.concatenate(pair) for pair in zip(rest, columns, strict=True)]
        count = len(columns[0]) // length
        rest = [column[count * length :] for column in columns]
        if not count:
            continue
        ids, words, size = (column[: count * length] for column in columns)
        begin = np.arange(count) * length
        labels = np.append(ids[1:], IGNORED).astype(np.int32)
        labels[begin + length - 1] = IGNORED
        # A position's sizes are those of its label.
        shifted = _Stream(ids, np.append(words[1:], 0), np.append(size[1:], 0), stream.lengths)
        yield _windows(
            ids, labels, begin, begin, begin + length, done + np.arange(count), shifted, last_scored=-1
        )
        done += count
    if not done:
        raise UserError(
            f"the text has {len(rest[0])} tokens, fewer than one block of config.data.max_length={length}; "
            "lower it, or use config.data.layout='documents'"
        )


def _windows(inputs, labels, begin, scored, last, sentence, stream, last_scored: int = 0) -> Windows:
    """Windows `[begin, last)` of flat inputs and labels; labels count from `scored` on, up to `last + last_scored`."""
    size = last - begin
    source = ragged_arange(begin, size)
    window = np.repeat(np.arange(len(begin)), size)
    predicted = (source >= scored[window]) & (source < last[window] + last_scored)
    sums = [
        np.bincount(window, np.where(predicted, column[source], 0), minlength=len(begin))
        for column in (stream.words, stream.bytes)
    ]
    chosen = np.where(predicted, labels[source], IGNORED)
    sums = dict(zip(("text_words", "text_bytes"), sums, strict=True))
    return _make(offsets_from_lengths(size), inputs[source], chosen, sentence=sentence, **sums)


def _make(offsets, input_ids, labels, **more) -> Windows:
    """The record batch of windows whose flat columns are cut at `offsets` `[N + 1]`; `more` are a value a window."""
    columns = {
        name: pa.LargeListArray.from_arrays(offsets, pa.array(np.asarray(values, np.int32)))
        for name, values in (
            ("input_ids", input_ids),
            ("labels", labels),
            ("word", np.full(len(input_ids), -1, np.int32)),
        )
    }
    columns |= {name: pa.array(np.asarray(values, np.int32)) for name, values in more.items()}
    return Windows(pa.RecordBatch.from_pydict(columns))


def _pairs(texts, tokenizer, max_length: int, special: BoundaryTokens, part: range) -> Iterator[Windows]:
    texts = texts[part.start : part.stop]
    prompts = _encodings([t.prompt for t in texts], tokenizer)
    targets = _counted([t.text for t in texts], tokenizer)
    inputs, labels = [], []
    counts = {name: [] for name in ("text_words", "text_bytes", "prompt_lost", "target_lost")}
    for text, prompt, (target, *columns) in zip(texts, prompts, targets, strict=True):
        before = _shortened(prompt, text.cuttable, max(max_length - len(target.ids), 1))
        lost = len(prompt.ids) - len(before)
        before = before or [special.start]
        predicted = max_length - len(before) + 1  # at most
        whole = [*before, *target.ids]
        shift = [IGNORED] * (len(before) - 1) + [*target.ids, special.end]
        inputs.append(np.array(whole[:max_length], np.int32))
        labels.append(np.array(shift[:max_length], np.int32))
        sizes = (int(column[:predicted].sum()) for column in columns)
        values = (*sizes, lost, max(len(whole) - max_length, 0))
        for column, value in zip(counts.values(), values, strict=True):
            column.append(value)
    offsets = offsets_from_lengths([len(part) for part in inputs])
    flat = np.concatenate(inputs), np.concatenate(labels)
    yield _make(offsets, *flat, sentence=part.start + np.arange(len(texts)), **counts)


def _shortened(encoding, cut: tuple[int, int], room: int) -> list[int]:
    """At most `room` ids of a prompt: taken out at the end of its characters `cut`, then from its beginning."""
    ids, excess = encoding.ids, len(encoding.ids) - room
    if excess <= 0:
        return ids
    inside = [i for i, (start, end) in enumerate(encoding.offsets) if cut[0] <= start and end <= cut[1]]
    gone = set(inside[-excess:] if inside else [])
    kept = [token for i, token in enumerate(ids) if i not in gone]
    return kept[len(kept) - room :] if len(kept) > room else kept


def encode_prompts(texts: Sequence[Document], tokenizer, room: int) -> list[list[int]]:
    """Token ids of the prompts, shortened to `room`, whatever their targets."""
    start, encodings = find_boundary_tokens(tokenizer).start, _encodings([t.prompt for t in texts], tokenizer)
    return [
        _shortened(one, text.cuttable, room) or [start] for text, one in zip(texts, encodings, strict=True)
    ]
