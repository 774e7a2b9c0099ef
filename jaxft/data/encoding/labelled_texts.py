"""Encodes labelled texts and pairs as windows of tokens: one shortened window, or several for a long document."""

import array
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pyarrow as pa

from jaxft.data.encoding.cache import CHUNK_CHARACTERS, ChunkEncoders, load_or_encode, split_by_size
from jaxft.data.encoding.text_tokens import Numbers, tokenize_texts
from jaxft.data.encoding.tokenizer import Frame, describe_tokenizer, make_frame
from jaxft.data.encoding.windows import Windows
from jaxft.data.ragged import offsets_from_lengths
from jaxft.data.sources.labelled_texts import LabelledText
from jaxft.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Ids = TypeVar("Ids", list[int], "array.array[int]")  # token ids

_FORMAT = 1  # part of the fingerprint; raise it if the same input starts to give different windows


def encode_labelled_texts(
    examples: Sequence[LabelledText],
    labels: np.ndarray,
    is_known: np.ndarray,
    tokenizer: "PreTrainedTokenizerBase",
    *,
    max_length: int,
    truncation: str = "head",
    stride: int | None = None,
    prompt_length: int = 0,
    cache_dir: str | os.PathLike[str] | None = None,
) -> Windows:
    """Encodes texts as windows of at most `max_length` tokens, special ones included.

    The windows have columns `labels`, `weights` and `lost` (number of tokens cut off), and `token_type_ids` for pairs.

    `truncation` says what a text that is too long keeps:

    - "head" or "tail": its beginning or its end.
    - "head+tail": a quarter of the room from its head and the rest from its tail. This is near the best of Sun et al.
      2019 (How to Fine-Tune BERT for Text Classification, table 2).
    - "windows": all tokens, in windows of equal length that share at least `stride` tokens (default 0). For a pair,
      the windows cover the longer text. Each window carries its document's label, with a weight of 1 over the number of
      the document's windows, so that a document counts once.

    In a pair the longer text is shortened first. If that is not enough, both are shortened to the same length
    (transformers' "longest_first").

    Args:
      examples: the texts or pairs.
      labels: `[N]` or `[N, C]`, int32 or float32, the label of each example.
      is_known: bool `[N]`, False if an example has no label; its weight is then 0.
      tokenizer: a fast Hugging Face tokenizer.
      max_length: the most tokens in a window.
      truncation: see above.
      stride: the least number of tokens that neighbouring windows share.
      prompt_length: the number of slots to add before each window; see `add_prompt`.
      cache_dir: see `encode_sentences`.

    Raises:
      UserError: settings cannot work.
    """
    has_pairs = _has_pairs(examples)
    frame = make_frame(tokenizer, has_pairs)
    room = max_length - frame.size
    smallest = room // 2 if has_pairs else room
    if smallest < 1:
        raise UserError(
            f"config.data.max_length={max_length} leaves no room for text beside {frame.size} special tokens"
        )
    if stride is not None and not 0 <= stride < smallest:
        raise UserError(
            f"config.data.stride={stride}: expected 0 to {smallest - 1} with config.data.max_length={max_length}"
        )
    path = None
    if cache_dir is not None:
        settings = [max_length, truncation, stride]
        path = (
            pathlib.Path(cache_dir) / f"{_fingerprint(examples, labels, is_known, tokenizer, settings)}.arrow"
        )

    def make_encoders() -> ChunkEncoders:
        sizes = (len(example.text) + len(example.pair or "") for example in examples)
        cut = functools.partial(cut_into_windows, room=room, truncation=truncation, stride=stride or 0)
        encode = functools.partial(_encode, examples, labels, is_known, tokenizer, frame, cut)
        return {
            indices: functools.partial(encode, indices) for indices in split_by_size(sizes, CHUNK_CHARACTERS)
        }

    return load_or_encode(path, make_encoders, prompt_length)


def _has_pairs(examples: Sequence[LabelledText]) -> bool:
    return bool(examples) and examples[0].pair is not None


def _fingerprint(
    examples: Sequence[LabelledText],
    labels: np.ndarray,
    is_known: np.ndarray,
    tokenizer: "PreTrainedTokenizerBase",
    settings: Sequence[object],
) -> str:
    header = [_FORMAT, "labelled", describe_tokenizer(tokenizer), settings, str(labels.dtype), labels.shape]
    digest = hashlib.blake2b(json.dumps(header, sort_keys=True).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(labels).tobytes() + is_known.tobytes())
    for example in examples:
        digest.update(repr((example.text, example.pair)).encode())
    return digest.hexdigest()


def _encode(
    examples: Sequence[LabelledText],
    labels: np.ndarray,
    is_known: np.ndarray,
    tokenizer: "PreTrainedTokenizerBase",
    frame: Frame,
    cut: "Callable[[Numbers, Numbers], list[tuple[Numbers, Numbers]]]",
    indices: range,
) -> Iterator[Windows]:
    """Yields the windows of the examples `indices` in one table; `cut` is `cut_into_windows`."""
    input_ids, types = array.array("i"), array.array("i")  # take a tenth of the memory of lists
    lengths, owners, weights, lost_counts = [], [], [], []
    has_pairs = _has_pairs(examples)
    tokens = _tokenize_examples(examples[indices.start : indices.stop], tokenizer)
    for owner, (first, second) in enumerate(tokens, indices.start):
        if not frame.size + len(first) + len(second):  # an empty text, and no special tokens either
            first = [tokenizer.eos_token_id]
        windows = cut(first, second)
        lost = _count_lost(first, second, windows)
        for first_piece, second_piece in windows:
            ids = frame.join_ids(first_piece, second_piece)
            input_ids.extend(ids)
            if has_pairs:
                types.extend(frame.join_types(len(first_piece), len(second_piece)))
            lengths.append(len(ids))
            owners.append(owner)
            weights.append(is_known[owner] / len(windows))
            lost_counts.append(lost)
    offsets = offsets_from_lengths(np.asarray(lengths, np.int64))
    text = np.asarray(owners, np.int32)  # of each window
    values = pa.array(labels[text].ravel())
    columns = {
        "input_ids": pa.LargeListArray.from_arrays(offsets, pa.array(np.asarray(input_ids, np.int32))),
        "sentence": pa.array(text),
        "labels": values if labels.ndim == 1 else pa.FixedSizeListArray.from_arrays(values, labels.shape[1]),
        "weights": pa.array(np.asarray(weights, np.float32)),
        "lost": pa.array(np.asarray(lost_counts, np.int32)),
    }
    if has_pairs:
        columns["token_type_ids"] = pa.LargeListArray.from_arrays(
            offsets, pa.array(np.asarray(types, np.int32))
        )
    yield Windows(pa.RecordBatch.from_pydict(columns))


def _tokenize_examples(
    examples: Sequence[LabelledText], tokenizer: "PreTrainedTokenizerBase"
) -> Iterator[tuple[Numbers, Numbers]]:
    """Yields the token ids of each text and of its pair, which are empty if there is no pair."""
    texts = tokenize_texts(tokenizer, (example.text for example in examples))
    if not _has_pairs(examples):
        yield from ((text.ids, []) for text in texts)
    else:
        pairs = tokenize_texts(tokenizer, map(_require_pair, examples))
        yield from ((text.ids, pair.ids) for text, pair in zip(texts, pairs, strict=True))


def _require_pair(example: LabelledText) -> str:
    assert example.pair is not None, f"{example.origin}: no pair, although the first text has one"
    return example.pair


def cut_into_windows(
    first: Ids, second: Ids, room: int, truncation: str, stride: int
) -> list[tuple[Ids, Ids]]:
    """Returns the pieces of a text and of its pair that each window holds; see `encode_labelled_texts`."""
    if len(first) + len(second) <= room:
        return [(first, second)]
    first_size, second_size = _share_room(len(first), len(second), room)
    if truncation != "windows":
        return [(_shorten(first, first_size, truncation), _shorten(second, second_size, truncation))]
    if len(first) >= len(second):
        return [(piece, second[:second_size]) for piece in _cut_evenly(first, first_size, stride)]
    return [(first[:first_size], piece) for piece in _cut_evenly(second, second_size, stride)]


def _count_lost(
    first: Sequence[int], second: Sequence[int], windows: Sequence[tuple[Sequence[int], Sequence[int]]]
) -> int:
    """Counts the tokens of a text and its pair that are in no window."""
    first_piece, second_piece = windows[0]
    if len(windows) == 1:
        return len(first) + len(second) - len(first_piece) - len(second_piece)
    # Several windows hold all of the longer text, and each holds the same piece of the shorter text.
    return len(second) - len(second_piece) if len(first) >= len(second) else len(first) - len(first_piece)


def _share_room(first: int, second: int, room: int) -> tuple[int, int]:
    """Returns how many tokens of each text are kept, as LongestFirst of the Rust tokenizers does."""
    if first + second <= room:
        return first, second
    short = min(first, second)
    if short <= room // 2:
        return (short, room - short) if first <= second else (room - short, short)
    low, high = room // 2, room - room // 2
    return (low, high) if first <= second else (high, low)


def _shorten(ids: Ids, size: int, truncation: str) -> Ids:
    if len(ids) <= size:
        return ids
    head = {"head": size, "tail": 0, "head+tail": size // 4}[truncation]
    return ids[:head] + ids[len(ids) - (size - head) :]


def _cut_evenly(ids: Ids, max_size: int, stride: int) -> list[Ids]:
    """Cuts `ids` into the fewest pieces of equal length; neighbouring pieces share at least `stride` tokens."""
    count = -(-(len(ids) - stride) // (max_size - stride))
    if count <= 1:
        return [ids]
    size = -(-(len(ids) + (count - 1) * stride) // count)
    starts = [index * (len(ids) - size) // (count - 1) for index in range(count)]
    return [ids[start : start + size] for start in starts]
