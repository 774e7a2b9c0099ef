"""Turns questions about contexts into windows of tokens: each holds the question, and a part of the context."""

import array
import bisect
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from jaxft.data.encoding.cache import ChunkEncoders, load_or_encode, split_by_size
from jaxft.data.encoding.labelled_texts import CHUNK_CHARACTERS, make_frame
from jaxft.data.encoding.sentences import describe_tokenizer
from jaxft.data.encoding.windows import Windows
from jaxft.data.ragged import offsets_from_lengths
from jaxft.data.sources.questions import Answer, Question
from jaxft.errors import UserError

_FORMAT = 1  # part of the fingerprint: raise it when the same input would give other windows
_TOKENIZER_BATCH = 256  # texts a call: bounds the tokenizer's own, heavy objects


def encode_questions(
    questions: Sequence[Question],
    tokenizer,
    *,
    max_length: int,
    stride: int | None = None,
    cache_dir: str | os.PathLike | None = None,
) -> Windows:
    """Windows of at most `max_length` tokens: question and context with special tokens and token types as pairs.

    A context that is too long is read in windows that share `stride` tokens (see `default_stride`), those of
    transformers' run_qa.py. A question takes half the room at most, and keeps its beginning.

    Columns beside `input_ids`, `token_type_ids` and `sentence` (the question's index): `labels` int32 [N, 2], first
    and last token of the first answer that the window holds whole, counted from the window's beginning, or 0, the
    CLS token, where it holds none; `weights` float32 [N], 1, but 0 where no window holds the question's answer, for
    it would teach that there is none; `char_start` and `char_end`, int32 a token: the context's characters that it
    stands for, -1 where it isn't context; `lost`, how many tokens the question was shortened by.

    Args:
      cache_dir: as in `tokenize.encode`.

    Raises UserError for settings that cannot work.
    """
    around = make_frame(tokenizer, pair=True)
    room = max_length - around.size
    least = room - room // 2  # for the context
    if room < 2:
        raise UserError(
            f"config.data.max_length={max_length} leaves no room for text beside {around.size} special tokens"
        )
    if stride is not None and not 0 <= stride < least:
        raise UserError(
            f"config.data.stride={stride}: expected 0 to {least - 1} with config.data.max_length={max_length}"
        )
    stride = default_stride(tokenizer, max_length) if stride is None else stride
    path = None
    if cache_dir is not None:
        path = pathlib.Path(cache_dir) / f"{_fingerprint(questions, tokenizer, [max_length, stride])}.arrow"

    def parts() -> ChunkEncoders:
        sizes = (len(one.question) + len(one.context) for one in questions)
        encoder = functools.partial(_encode, questions, tokenizer, around, room, stride)
        some = split_by_size(sizes, CHUNK_CHARACTERS)
        return {part: functools.partial(encoder, part) for part in some}

    return load_or_encode(path, parts)


def max_question_tokens(tokenizer, max_length: int) -> int:
    """Tokens that a question keeps at most: half of a window's room."""
    return (max_length - make_frame(tokenizer, pair=True).size) // 2


def default_stride(tokenizer, max_length: int) -> int:
    """Tokens that windows share: a third of `max_length`, as the 128 of 384 of transformers' run_qa.py, if they can."""
    room = max_length - make_frame(tokenizer, pair=True).size
    return min(max_length // 3, room - room // 2 - 1)


def _fingerprint(questions: Sequence[Question], tokenizer, settings: list[int]) -> str:
    about = [_FORMAT, "questions", describe_tokenizer(tokenizer), settings]
    digest = hashlib.blake2b(json.dumps(about, sort_keys=True).encode(), digest_size=16)
    for one in questions:
        digest.update(repr((one.question, one.context, one.answers)).encode())
    return digest.hexdigest()


def _encode(
    questions: Sequence[Question], tokenizer, around, room: int, stride: int, some: range
) -> Iterator[Windows]:
    of_tokens = {name: array.array("i") for name in ("input_ids", "token_type_ids", "char_start", "char_end")}
    lengths, owners, labels, weights, losses = [], [], [], [], []
    before, question_type, between, context_type, after = around.types
    tokens = _tokens(questions[some.start : some.stop], tokenizer)
    for owner, (asked, ids, starts, ends) in enumerate(tokens, some.start):
        kept = asked[: room // 2]
        first = len(around.before) + len(kept) + len(around.between)  # where the context begins in a window
        spans = [token_span(answer, starts, ends) for answer in questions[owner].answers or ()]
        size = room - len(kept)
        found = []
        for low in _starts(len(ids), size, stride):
            high = min(low + size, len(ids))
            part = high - low
            of_tokens["input_ids"].extend(
                [*around.before, *kept, *around.between, *ids[low:high], *around.after]
            )
            of_tokens["token_type_ids"].extend(
                [*before, *[question_type] * len(kept), *between, *[context_type] * part, *after]
            )
            outside = [-1] * first, [-1] * len(around.after)
            of_tokens["char_start"].extend([*outside[0], *starts[low:high], *outside[1]])
            of_tokens["char_end"].extend([*outside[0], *ends[low:high], *outside[1]])
            held = next((s for s in spans if s and low <= s[0] and s[1] < high), None)
            found.append((0, 0) if held is None else (first + held[0] - low, first + held[1] - low))
            lengths.append(first + part + len(around.after))
        teaches = not spans or any(last for _, last in found)
        labels += found
        owners += [owner] * len(found)
        weights += [float(teaches)] * len(found)
        losses += [len(asked) - len(kept)] * len(found)
    offsets = offsets_from_lengths(np.asarray(lengths, np.int64))
    columns = {
        name: pa.LargeListArray.from_arrays(offsets, pa.array(np.asarray(values, np.int32)))
        for name, values in of_tokens.items()
    }
    pairs = pa.array(np.asarray(labels, np.int32).ravel())
    columns |= {
        "sentence": pa.array(np.asarray(owners, np.int32)),
        "labels": pa.FixedSizeListArray.from_arrays(pairs, 2),
        "weights": pa.array(np.asarray(weights, np.float32)),
        "lost": pa.array(np.asarray(losses, np.int32)),
    }
    yield Windows(pa.RecordBatch.from_pydict(columns))


def _tokens(
    questions: Sequence[Question], tokenizer
) -> Iterator[tuple[list[int], list[int], list[int], list[int]]]:
    """Token ids of each question and of its context, and the latter's first and last (exclusive) characters."""
    for start in range(0, len(questions), _TOKENIZER_BATCH):
        batch = questions[start : start + _TOKENIZER_BATCH]
        # Several questions share a context.
        contexts = {text: index for index, text in enumerate(dict.fromkeys(one.context for one in batch))}
        asked, read = (
            tokenizer(
                texts,
                add_special_tokens=False,
                truncation=False,
                padding=False,
                return_attention_mask=False,
                verbose=False,
            ).encodings
            for texts in ([one.question for one in batch], list(contexts))
        )
        chars = [tuple(map(list, zip(*encoding.offsets, strict=True))) or ([], []) for encoding in read]
        for index, one in enumerate(batch):
            of = contexts[one.context]
            yield asked[index].ids, read[of].ids, *chars[of]


def token_span(answer: Answer, starts: Sequence[int], ends: Sequence[int]) -> tuple[int, int] | None:
    """The first and the last token that hold characters of the answer, white space at its ends aside; None if none do.

    starts, ends: each token's first character and the one after its last, both rising.
    """
    text = answer.text.strip()
    start = answer.start + answer.text.index(text)
    first = bisect.bisect_right(ends, start)
    last = bisect.bisect_left(starts, start + len(text)) - 1
    return (first, last) if first <= last else None


def _starts(count: int, size: int, stride: int) -> range:
    """Where windows of `size` begin that cover `count` tokens, neighbours sharing `stride`; one at least."""
    return range(0, max(count - stride, 1), size - stride) if count > size else range(1)
