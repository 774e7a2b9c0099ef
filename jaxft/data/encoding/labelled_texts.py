"""Turns labelled texts and pairs into windows of tokens: one each, shortened, or several of a long document."""

import array
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from jaxft.data.encoding.cache import ChunkEncoders, load_or_encode, split_by_size
from jaxft.data.encoding.sentences import describe_tokenizer
from jaxft.data.encoding.windows import Windows
from jaxft.data.ragged import offsets_from_lengths
from jaxft.data.sources.labelled_texts import LabelledText
from jaxft.errors import UserError

_FORMAT = 1  # part of the fingerprint: raise it when the same input would give other windows
_TOKENIZER_BATCH = 256  # texts a call: bounds the tokenizer's own, heavy objects
CHUNK_CHARACTERS = 1 << 21  # characters that are encoded, and cached, before others: some seconds


class Frame(NamedTuple):
    """The special tokens before, between and after a text and its pair, and the token types of all five parts."""

    before: list[int]
    between: list[int]
    after: list[int]
    types: tuple[list[int], int, list[int], int, list[int]]

    @property
    def size(self) -> int:
        """Special tokens in all."""
        return len(self.before) + len(self.between) + len(self.after)


def make_frame(tokenizer, pair: bool) -> Frame:
    """What a fast Hugging Face tokenizer puts around one text, or around a text and its pair."""
    [encoding] = tokenizer(["a"], ["a"] if pair else None, truncation=False, padding=False).encodings
    ids, types, of = encoding.ids, encoding.type_ids, encoding.sequence_ids
    first = [index for index, text in enumerate(of) if text == 0]
    second = [index for index, text in enumerate(of) if text == 1] or [len(ids)]
    middle = slice(first[-1] + 1, second[0]) if pair else slice(0, 0)
    last = slice((second if pair else first)[-1] + 1, None)
    kinds = (
        types[: first[0]],
        types[first[0]],
        types[middle],
        types[second[0]] if pair else 0,
        types[last],
    )
    return Frame(ids[: first[0]], ids[middle], ids[last], kinds)


def encode_labelled_texts(
    examples: Sequence[LabelledText],
    labels: np.ndarray,
    known: np.ndarray,
    tokenizer,
    *,
    max_length: int,
    truncation: str = "head",
    stride: int | None = None,
    cache_dir: str | os.PathLike | None = None,
) -> Windows:
    """Windows of at most `max_length` tokens, special ones included, with columns `labels`, `weights` and `lost`.

    A text that is too long keeps its "head", its "tail", or "head+tail", of its room a quarter and the rest (near
    the best of Sun et al. 2019, How to Fine-Tune BERT for Text Classification, table 2); of a pair the longer
    text is shortened first, both to the same length where that isn't enough (transformers' "longest_first").
    "windows" reads all of it: windows of equal length over the text, the longer one of a pair, that share
    `stride` (default 0) tokens at least. Each then carries its document's label, with a weight of 1 over their
    number, so that a document counts once.

    Args:
      labels: [N] or [N, C], int32 or float32: of each example.
      known: bool [N], False where an example's label is none; its weight is 0.
      cache_dir: as in `tokenize.encode`.

    Raises UserError for settings that cannot work.
    """
    pair = bool(examples) and examples[0].pair is not None
    around = make_frame(tokenizer, pair)
    room = max_length - around.size
    smallest = room // 2 if pair else room
    if smallest < 1:
        raise UserError(
            f"config.data.max_length={max_length} leaves no room for text beside {around.size} special tokens"
        )
    if stride is not None and not 0 <= stride < smallest:
        raise UserError(
            f"config.data.stride={stride}: expected 0 to {smallest - 1} with config.data.max_length={max_length}"
        )
    path = None
    if cache_dir is not None:
        settings = [max_length, truncation, stride]
        path = pathlib.Path(cache_dir) / f"{_fingerprint(examples, labels, known, tokenizer, settings)}.arrow"
    rest = (around, room, truncation, stride or 0)

    def parts() -> ChunkEncoders:
        sizes = (len(one.text) + len(one.pair or "") for one in examples)
        encoder = functools.partial(_encode, examples, labels, known, tokenizer, *rest)
        return {some: functools.partial(encoder, some) for some in split_by_size(sizes, CHUNK_CHARACTERS)}

    return load_or_encode(path, parts)


def _fingerprint(examples, labels, known, tokenizer, settings) -> str:
    about = [_FORMAT, "labelled", describe_tokenizer(tokenizer), settings, str(labels.dtype), labels.shape]
    digest = hashlib.blake2b(json.dumps(about, sort_keys=True).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(labels).tobytes() + known.tobytes())
    for example in examples:
        digest.update(repr((example.text, example.pair)).encode())
    return digest.hexdigest()


def _encode(
    examples, labels, known, tokenizer, around, room, truncation, stride, some: range
) -> Iterator[Windows]:
    ids, types = array.array("i"), array.array("i")  # a tenth of what lists take
    lengths, owners, weights, losses = [], [], [], []
    pair = bool(examples) and examples[0].pair is not None
    for owner, (first, second) in enumerate(_tokens(examples[some.start : some.stop], tokenizer), some.start):
        if not around.size + len(first) + len(second):  # an empty text, and no special tokens either
            first = [tokenizer.eos_token_id]
        pieces = _pieces(first, second, room, truncation, stride)
        lost = len(first) + len(second) - sum(map(len, pieces[0]))
        if len(pieces) > 1:  # which hold all of the longer text
            shorter = int(len(first) >= len(second))
            lost = len((first, second)[shorter]) - len(pieces[0][shorter])
        for one, other in pieces:
            parts = (around.before, one, around.between, other, around.after)
            for part in parts:
                ids.extend(part)
            if pair:
                a, b, c, d, e = around.types
                types.extend([*a, *[b] * len(one), *c, *[d] * len(other), *e])
            lengths.append(sum(map(len, parts)))
            owners.append(owner)
            weights.append(known[owner] / len(pieces))
            losses.append(lost)
    offsets = offsets_from_lengths(np.asarray(lengths, np.int64))
    owner = np.asarray(owners, np.int32)
    of_windows = labels[owner]
    values = pa.array(of_windows.ravel())
    columns = {
        "input_ids": pa.LargeListArray.from_arrays(offsets, pa.array(np.asarray(ids, np.int32))),
        "sentence": pa.array(owner),
        "labels": values if labels.ndim == 1 else pa.FixedSizeListArray.from_arrays(values, labels.shape[1]),
        "weights": pa.array(np.asarray(weights, np.float32)),
        "lost": pa.array(np.asarray(losses, np.int32)),
    }
    if pair:
        columns["token_type_ids"] = pa.LargeListArray.from_arrays(
            offsets, pa.array(np.asarray(types, np.int32))
        )
    yield Windows(pa.RecordBatch.from_pydict(columns))


def _tokens(examples: Sequence[LabelledText], tokenizer) -> Iterator[tuple[list[int], list[int]]]:
    """Token ids of each text and of its pair, the latter empty where there is none."""
    for start in range(0, len(examples), _TOKENIZER_BATCH):
        batch = examples[start : start + _TOKENIZER_BATCH]
        sides = [[example.text for example in batch]]
        if batch[0].pair is not None:
            sides.append([example.pair for example in batch])
        encoded = [
            tokenizer(
                texts,
                add_special_tokens=False,
                truncation=False,
                padding=False,
                return_attention_mask=False,
                verbose=False,
            ).encodings
            for texts in sides
        ]
        for index in range(len(batch)):
            yield encoded[0][index].ids, encoded[1][index].ids if len(encoded) > 1 else []


def _shares(first: int, second: int, room: int) -> tuple[int, int]:
    """How many tokens of each text are kept; as the Rust tokenizers' LongestFirst."""
    if first + second <= room:
        return first, second
    short = min(first, second)
    if short <= room // 2:
        return (short, room - short) if first <= second else (room - short, short)
    low, high = room // 2, room - room // 2
    return (low, high) if first <= second else (high, low)


def _pieces(first, second, room: int, truncation: str, stride: int) -> list[tuple[list[int], list[int]]]:
    """The parts of both texts that each window of an example holds."""
    if len(first) + len(second) <= room:
        return [(first, second)]
    keep = _shares(len(first), len(second), room)
    if truncation != "windows":
        return [
            tuple(_shortened(ids, size, truncation) for ids, size in zip((first, second), keep, strict=True))
        ]
    if len(first) >= len(second):
        return [(piece, second[: keep[1]]) for piece in _cut(first, keep[0], stride)]
    return [(first[: keep[0]], piece) for piece in _cut(second, keep[1], stride)]


def _shortened(ids: list[int], size: int, truncation: str) -> list[int]:
    if len(ids) <= size:
        return ids
    head = {"head": size, "tail": 0, "head+tail": size // 4}[truncation]
    return ids[:head] + ids[len(ids) - (size - head) :]


def _cut(ids: list[int], size: int, stride: int) -> list[list[int]]:
    """As few windows of one length, at most `size`, as hold all of `ids`, neighbours sharing `stride` or more."""
    count = -(-(len(ids) - stride) // (size - stride))
    if count <= 1:
        return [ids]
    size = -(-(len(ids) + (count - 1) * stride) // count)
    starts = [index * (len(ids) - size) // (count - 1) for index in range(count)]
    return [ids[start : start + size] for start in starts]
