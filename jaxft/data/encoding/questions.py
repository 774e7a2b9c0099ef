"""Encodes questions about contexts as windows of tokens. Each window holds the question and a piece of the context."""

import array
import bisect
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from jaxft.data.encoding.cache import CHUNK_CHARACTERS, ChunkEncoders, load_or_encode, split_by_size
from jaxft.data.encoding.text_tokens import TextTokens, tokenize_texts
from jaxft.data.encoding.tokenizer import Frame, describe_tokenizer, make_frame
from jaxft.data.encoding.windows import Windows
from jaxft.data.ragged import offsets_from_lengths
from jaxft.data.sources.questions import Answer, Question
from jaxft.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_FORMAT = 1  # part of the fingerprint; raise it if the same input starts to give different windows
_QUESTIONS_PER_BATCH = 256  # whose contexts' tokens are in memory at a time


def encode_questions(
    questions: Sequence[Question],
    tokenizer: "PreTrainedTokenizerBase",
    *,
    max_length: int,
    stride: int | None = None,
    prompt_length: int = 0,
    cache_dir: str | os.PathLike[str] | None = None,
) -> Windows:
    """Encodes each question and its context as windows of at most `max_length` tokens, with the token types of pairs.

    A context that is too long is cut into windows that share `stride` tokens (see `default_stride`), as in
    transformers' run_qa.py. A question takes at most half of the room; a longer one keeps its beginning.

    The windows have these columns besides `input_ids`, `token_type_ids` and `sentence` (the question's index):

    - `labels`, int32 `[N, 2]`: the first and last token of the first answer that lies completely in the window,
      counted from the window's beginning. If the window holds no answer, both are 0, the CLS token.
    - `weights`, float32 `[N]`: 1, but 0 if the question has an answer that no window holds. Training on such a window
      would teach that there is no answer.
    - `char_start` and `char_end`, int32 for each token: the token's characters in the context, -1 outside the context.
    - `lost`: the number of tokens by which the question was shortened.

    Args:
      questions: the questions.
      tokenizer: a fast Hugging Face tokenizer.
      max_length: the most tokens in a window.
      stride: number of context tokens that neighbouring windows share.
      prompt_length: the number of slots to add before each window; see `add_prompt`.
      cache_dir: see `encode_sentences`.

    Raises:
      UserError: settings cannot work.
    """
    frame = make_frame(tokenizer, has_pair=True)
    room = max_length - frame.size
    least_context = room - room // 2
    if room < 2:
        raise UserError(
            f"config.data.max_length={max_length} leaves no room for text beside {frame.size} special tokens"
        )
    if stride is not None and not 0 <= stride < least_context:
        raise UserError(
            f"config.data.stride={stride}: expected 0 to {least_context - 1} with "
            f"config.data.max_length={max_length}"
        )
    stride = default_stride(tokenizer, max_length) if stride is None else stride
    path = None
    if cache_dir is not None:
        path = pathlib.Path(cache_dir) / f"{_fingerprint(questions, tokenizer, [max_length, stride])}.arrow"

    def make_encoders() -> ChunkEncoders:
        sizes = (len(question.question) + len(question.context) for question in questions)
        encode = functools.partial(_encode, questions, tokenizer, frame, room, stride)
        return {
            indices: functools.partial(encode, indices) for indices in split_by_size(sizes, CHUNK_CHARACTERS)
        }

    return load_or_encode(path, make_encoders, prompt_length)


def max_question_tokens(tokenizer: "PreTrainedTokenizerBase", max_length: int) -> int:
    """Returns the most tokens that a question keeps, which is half of a window's room."""
    return (max_length - make_frame(tokenizer, has_pair=True).size) // 2


def default_stride(tokenizer: "PreTrainedTokenizerBase", max_length: int) -> int:
    """Returns the default number of tokens that neighbouring windows share.

    It is a third of `max_length` (transformers' run_qa.py has 128 of 384), or the largest possible number if that is
    smaller.
    """
    room = max_length - make_frame(tokenizer, has_pair=True).size
    return min(max_length // 3, room - room // 2 - 1)


def _fingerprint(
    questions: Sequence[Question], tokenizer: "PreTrainedTokenizerBase", settings: list[int]
) -> str:
    header = [_FORMAT, "questions", describe_tokenizer(tokenizer), settings]
    digest = hashlib.blake2b(json.dumps(header, sort_keys=True).encode(), digest_size=16)
    for question in questions:
        digest.update(repr((question.question, question.context, question.answers)).encode())
    return digest.hexdigest()


def _encode(
    questions: Sequence[Question],
    tokenizer: "PreTrainedTokenizerBase",
    frame: Frame,
    room: int,
    stride: int,
    indices: range,
) -> Iterator[Windows]:
    """Yields the windows of the questions `indices` in one table."""
    token_columns = {
        name: array.array("i") for name in ("input_ids", "token_type_ids", "char_start", "char_end")
    }
    lengths, owners, labels, weights, lost_counts = [], [], [], [], []
    tokens_of_questions = _tokenize_questions(questions[indices.start : indices.stop], tokenizer)
    for owner, (asked, context) in enumerate(tokens_of_questions, indices.start):
        question_ids = asked.ids[: room // 2]
        # The position where the context begins in a window.
        context_start = len(frame.before) + len(question_ids) + len(frame.between)
        spans = [
            _find_token_span(answer, context.starts, context.ends)
            for answer in questions[owner].answers or ()
        ]
        size = room - len(question_ids)
        window_labels = []
        for low in _window_starts(len(context.ids), size, stride):
            high = min(low + size, len(context.ids))
            token_columns["input_ids"].extend(frame.join_ids(question_ids, context.ids[low:high]))
            token_columns["token_type_ids"].extend(frame.join_types(len(question_ids), high - low))
            before, after = [-1] * context_start, [-1] * len(frame.after)
            token_columns["char_start"].extend([*before, *context.starts[low:high], *after])
            token_columns["char_end"].extend([*before, *context.ends[low:high], *after])
            span = next((span for span in spans if span and low <= span[0] and span[1] < high), None)
            shift = context_start - low
            window_labels.append((0, 0) if span is None else (span[0] + shift, span[1] + shift))
            lengths.append(context_start + high - low + len(frame.after))
        has_answer_in_window = any(last for _, last in window_labels)
        labels += window_labels
        owners += [owner] * len(window_labels)
        weights += [float(not spans or has_answer_in_window)] * len(window_labels)
        lost_counts += [len(asked.ids) - len(question_ids)] * len(window_labels)
    offsets = offsets_from_lengths(np.asarray(lengths, np.int64))
    columns = {
        name: pa.LargeListArray.from_arrays(offsets, pa.array(np.asarray(values, np.int32)))
        for name, values in token_columns.items()
    }
    flat_labels = pa.array(np.asarray(labels, np.int32).ravel())
    columns |= {
        "sentence": pa.array(np.asarray(owners, np.int32)),
        "labels": pa.FixedSizeListArray.from_arrays(flat_labels, 2),
        "weights": pa.array(np.asarray(weights, np.float32)),
        "lost": pa.array(np.asarray(lost_counts, np.int32)),
    }
    yield Windows(pa.RecordBatch.from_pydict(columns))


def _tokenize_questions(
    questions: Sequence[Question], tokenizer: "PreTrainedTokenizerBase"
) -> Iterator[tuple[TextTokens, TextTokens]]:
    """Yields the tokens of each question and of its context."""
    for start in range(0, len(questions), _QUESTIONS_PER_BATCH):
        batch = questions[start : start + _QUESTIONS_PER_BATCH]
        asked = tokenize_texts(tokenizer, (question.question for question in batch))
        # Several questions may share a context, so each context is tokenized once.
        texts = list(dict.fromkeys(question.context for question in batch))
        contexts = dict(zip(texts, tokenize_texts(tokenizer, texts, with_characters=True), strict=True))
        for question, tokens in zip(batch, asked, strict=True):
            yield tokens, contexts[question.context]


def _find_token_span(answer: Answer, starts: Sequence[int], ends: Sequence[int]) -> tuple[int, int] | None:
    """Returns the first and the last token with characters of the answer, ignoring white space at the answer's ends.

    Args:
      starts: the first character of each token, ascending.
      ends: the end (exclusive) of each token's characters, ascending.

    Returns:
      (first, last), or None if no token holds any of these characters.
    """
    text = answer.text.strip()
    start = answer.start + answer.text.index(text)
    first = bisect.bisect_right(ends, start)
    last = bisect.bisect_left(starts, start + len(text)) - 1
    return (first, last) if first <= last else None


def _window_starts(count: int, size: int, stride: int) -> range:
    """Returns the starts of windows of `size` tokens that cover `count` tokens and share `stride`; at least one."""
    return range(0, max(count - stride, 1), size - stride) if count > size else range(1)
