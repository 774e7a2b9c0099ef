"""Encodes texts as windows of tokens for a language model, so that each token is predicted exactly once.

Labels are shifted: the label at a position is the next token. The inputs and labels of a window therefore differ by one
position, and no text is lost between windows. The end token of a text is a label but never an input.
"""

import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike

from jaxft.data.encoding.cache import CHUNK_CHARACTERS, ChunkEncoders, load_or_encode, split_by_size
from jaxft.data.encoding.document_tokens import TokenStream, make_token_stream
from jaxft.data.encoding.sentences import IGNORED
from jaxft.data.encoding.text_tokens import TextTokens, tokenize_texts
from jaxft.data.encoding.tokenizer import BoundaryTokens, describe_tokenizer, find_boundary_tokens
from jaxft.data.encoding.windows import Windows
from jaxft.data.ragged import offsets_from_lengths, ragged_arange
from jaxft.data.sources.documents import Document
from jaxft.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LAYOUTS = ("documents", "blocks")
_FORMAT = 1  # part of the fingerprint; raise it if the same input starts to give different windows
# Tokens that are cut into windows at a time, in arrays that take more memory than the windows.
_TABLE_TOKENS = 1 << 19


def encode_documents(
    texts: Sequence[Document],
    tokenizer: "PreTrainedTokenizerBase",
    *,
    max_length: int,
    layout: str = "documents",
    stride: int | None = None,
    prompt_length: int = 0,
    cache_dir: str | os.PathLike[str] | None = None,
) -> Windows:
    """Encodes texts as windows of at most `max_length` tokens.

    The windows have these columns besides `input_ids` and `labels`:

    - `text_words` and `text_bytes`, int32 `[N]`: the number of words (separated by white space) and of UTF-8 bytes in
      the text that a window predicts.
    - `word`: always -1.
    - `sentence`: the index of the text or of the block.
    - `prompt_lost` and `target_lost`, only for pairs of prompt and target: the number of tokens that did not fit.

    Layout "documents": each document begins with the start token. Its tokens and the end token are predicted once. A
    document longer than a window is cut into several windows. All but the first begin with `stride` (default 0) tokens
    of context, which the previous window predicts. A prompt and its target form one window, which predicts the target's
    tokens and the end token. If they do not fit, the prompt is shortened. If that is not enough, the target is
    shortened too and has no end token.

    Layout "blocks": all documents are joined, with an end token after each, and cut into blocks of `max_length`. Tokens
    that do not fill the last block are dropped, and the first token of a block is not predicted. Source: `group_texts`
    of transformers' run_clm.py.

    Args:
      texts: the documents, or pairs of prompt and target.
      tokenizer: a fast Hugging Face tokenizer.
      max_length: the most tokens in a window.
      layout: "documents" or "blocks".
      stride: number of context tokens at the start of a document's later windows.
      prompt_length: the number of slots to add before each window; see `add_prompt`.
      cache_dir: see `encode_sentences`.

    Raises:
      UserError: settings cannot work.
    """
    special, has_prompts = find_boundary_tokens(tokenizer), bool(texts) and texts[0].prompt is not None
    if layout == "blocks" and (has_prompts or stride is not None):
        setting = "config.data.template" if has_prompts else "config.data.stride"
        raise UserError(f"config.data.layout='blocks' cuts text anywhere, so {setting} does not go with it")
    if stride is not None and not 0 <= stride < max_length:
        raise UserError(f"config.data.stride={stride}: expected 0 to {max_length - 1}, less than max_length")
    path = None
    if cache_dir is not None:
        path = pathlib.Path(cache_dir) / f"{_fingerprint(texts, tokenizer, max_length, layout, stride)}.arrow"

    def make_encoders() -> ChunkEncoders:
        sizes = (len(text.prompt or "") + len(text.text) for text in texts)
        chunks = split_by_size(sizes, CHUNK_CHARACTERS)
        # A chunk begins with the rest of the previous one, so one process encodes all chunks.
        if layout == "blocks":
            encode_all = functools.partial(_encode_blocks, chunks, texts, tokenizer, max_length, special)
            return {range(len(texts)): encode_all}
        if has_prompts:
            encode = functools.partial(_encode_prompts_and_targets, texts, tokenizer, max_length, special)
        else:
            encode = functools.partial(_encode_documents, texts, tokenizer, max_length, stride or 0, special)
        return {chunk: functools.partial(encode, chunk) for chunk in chunks}

    return load_or_encode(path, make_encoders, prompt_length)


def _fingerprint(
    texts: Sequence[Document],
    tokenizer: "PreTrainedTokenizerBase",
    max_length: int,
    layout: str,
    stride: int | None,
) -> str:
    header = [
        _FORMAT,
        describe_tokenizer(tokenizer),
        find_boundary_tokens(tokenizer),
        max_length,
        layout,
        stride,
    ]
    digest = hashlib.blake2b(json.dumps(header, sort_keys=True).encode(), digest_size=16)
    for text in texts:
        digest.update(repr((text.prompt, text.cuttable, text.text)).encode())
    return digest.hexdigest()


def _encode_documents(
    texts: Sequence[Document],
    tokenizer: "PreTrainedTokenizerBase",
    max_length: int,
    stride: int,
    special: BoundaryTokens,
    chunk: range,
) -> Iterator[Windows]:
    """Yields the windows of the documents `chunk`, in tables of bounded size."""
    stream = make_token_stream(
        [text.text for text in texts[chunk.start : chunk.stop]], tokenizer, special.end
    )
    inputs = np.empty_like(stream.ids)
    inputs[1:] = stream.ids[:-1]  # labels are `stream.ids`; the inputs are shifted by one
    inputs[offsets_from_lengths(stream.lengths)[:-1]] = special.start
    for begin, scored, end, text in cut_documents(stream.lengths, max_length, stride):
        yield _cut_windows(inputs, stream.ids, begin, scored, end, chunk.start + text, stream)


def cut_documents(
    lengths: np.ndarray, room: int, stride: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Cuts documents, whose tokens follow one another, into windows.

    Each token is new in one window. Each window of a document but its first begins with `stride` tokens of context.

    Args:
      lengths: int64 `[documents]`, the number of tokens in each document.
      room: the most tokens in a window.
      stride: the number of context tokens, less than `room`.

    Yields:
      The first token, the first new token, the end and the document of each window, int64 `[N]` each, for windows of a
      bounded number of tokens.
    """
    offsets, step = offsets_from_lengths(lengths), room - stride
    # The first window has `room` new tokens, each later window `step`.
    window_counts = 1 + -(-np.maximum(lengths - room, 0) // step)
    document = np.repeat(np.arange(len(lengths)), window_counts)
    number = ragged_arange(0, window_counts)
    begin = number * step
    new = np.where(number == 0, 0, begin + stride)
    end = np.minimum(begin + room, lengths[document])
    begin, new, end = (offsets[document] + position for position in (begin, new, end))
    for first in range(0, len(begin), table_size := max(1, _TABLE_TOKENS // room)):
        table = slice(first, first + table_size)
        yield begin[table], new[table], end[table], document[table]


def _encode_blocks(
    chunks: list[range],
    texts: Sequence[Document],
    tokenizer: "PreTrainedTokenizerBase",
    length: int,
    special: BoundaryTokens,
) -> Iterator[Windows]:
    """Yields the blocks that each chunk of documents fills. The remaining tokens begin the next chunk."""
    rest: list[np.ndarray] = []  # the tokens after the last block, with their counts
    done = 0
    for chunk in chunks:
        batch = [text.text for text in texts[chunk.start : chunk.stop]]
        stream = make_token_stream(batch, tokenizer, special.end)
        columns = [stream.ids, stream.word_counts, stream.byte_counts]
        if rest:
            columns = [np.concatenate(pair) for pair in zip(rest, columns, strict=True)]
        count = len(columns[0]) // length
        rest = [column[count * length :] for column in columns]
        if not count:
            continue
        ids, word_counts, byte_counts = (column[: count * length] for column in columns)
        begin = np.arange(count) * length
        labels = np.append(ids[1:], IGNORED).astype(np.int32)
        labels[begin + length - 1] = IGNORED
        # The counts at a position belong to its label, which is the next token.
        word_counts, byte_counts = np.append(word_counts[1:], 0), np.append(byte_counts[1:], 0)
        shifted = stream._replace(ids=ids, word_counts=word_counts, byte_counts=byte_counts)
        number = done + np.arange(count)
        yield _cut_windows(ids, labels, begin, begin, begin + length, number, shifted, last_scored=-1)
        done += count
    if not done:
        raise UserError(
            f"the text has {len(rest[0])} tokens, fewer than one block of config.data.max_length={length}; "
            "lower it, or use config.data.layout='documents'"
        )


def _cut_windows(
    inputs: np.ndarray,
    labels: np.ndarray,
    begin: np.ndarray,
    scored: np.ndarray,
    end: np.ndarray,
    sentence: np.ndarray,
    stream: TokenStream,
    last_scored: int = 0,
) -> Windows:
    """Cuts windows `[begin, end)` out of flat inputs and labels; only labels in `[scored, end + last_scored)` count."""
    size = end - begin
    source = ragged_arange(begin, size)
    window = np.repeat(np.arange(len(begin)), size)
    is_scored = (source >= scored[window]) & (source < end[window] + last_scored)
    text_words, text_bytes = (
        np.bincount(window, np.where(is_scored, column[source], 0), minlength=len(begin))
        for column in (stream.word_counts, stream.byte_counts)
    )
    return _make_windows(
        offsets_from_lengths(size),
        inputs[source],
        np.where(is_scored, labels[source], IGNORED),
        sentence=sentence,
        text_words=text_words,
        text_bytes=text_bytes,
    )


def _make_windows(
    offsets: np.ndarray, input_ids: np.ndarray, labels: np.ndarray, **window_columns: ArrayLike
) -> Windows:
    """Makes a table of windows by cutting flat columns at `offsets` `[N + 1]`. Each of `window_columns` is `[N]`."""
    columns = {
        name: pa.LargeListArray.from_arrays(offsets, pa.array(np.asarray(values, np.int32)))
        for name, values in (
            ("input_ids", input_ids),
            ("labels", labels),
            ("word", np.full(len(input_ids), -1, np.int32)),
        )
    }
    columns |= {name: pa.array(np.asarray(values, np.int32)) for name, values in window_columns.items()}
    return Windows(pa.RecordBatch.from_pydict(columns))


def _encode_prompts_and_targets(
    texts: Sequence[Document],
    tokenizer: "PreTrainedTokenizerBase",
    max_length: int,
    special: BoundaryTokens,
    chunk: range,
) -> Iterator[Windows]:
    """Yields the windows of the pairs `chunk` in one table."""
    texts = texts[chunk.start : chunk.stop]
    prompts = tokenize_texts(tokenizer, map(_require_prompt, texts), with_characters=True)
    targets = make_token_stream([text.text for text in texts], tokenizer, special.end)
    target_offsets = offsets_from_lengths(targets.lengths)
    inputs, labels = [], []
    counts: dict[str, list[int]] = {
        name: [] for name in ("text_words", "text_bytes", "prompt_lost", "target_lost")
    }
    for text, prompt, begin, end in zip(texts, prompts, target_offsets[:-1], target_offsets[1:], strict=True):
        target_length = int(end - begin) - 1
        # With the end token, if it fits.
        target_ids = targets.ids[begin : min(end, begin + max_length)].tolist()
        prompt_ids = _shorten_prompt(prompt, text.cuttable, max(max_length - target_length, 1))
        counts["prompt_lost"].append(len(prompt.ids) - len(prompt_ids))
        prompt_ids = prompt_ids or [special.start]
        input_ids = [*prompt_ids, *target_ids[:target_length]]
        label_ids = [IGNORED] * (len(prompt_ids) - 1) + target_ids
        inputs.append(np.array(input_ids[:max_length], np.int32))
        labels.append(np.array(label_ids[:max_length], np.int32))
        predicted = slice(begin, min(begin + max_length - len(prompt_ids) + 1, end))
        counts["text_words"].append(int(targets.word_counts[predicted].sum()))
        counts["text_bytes"].append(int(targets.byte_counts[predicted].sum()))
        counts["target_lost"].append(max(len(prompt_ids) + target_length - max_length, 0))
    offsets = offsets_from_lengths([len(input_ids) for input_ids in inputs])
    sentence = chunk.start + np.arange(len(texts))
    yield _make_windows(offsets, np.concatenate(inputs), np.concatenate(labels), sentence=sentence, **counts)


def _require_prompt(text: Document) -> str:
    assert text.prompt is not None, f"{text.origin}: a document, not a prompt"
    return text.prompt


def encode_prompts(
    texts: Sequence[Document], tokenizer: "PreTrainedTokenizerBase", room: int
) -> list[list[int]]:
    """Returns the token ids of the prompts, each shortened to at most `room` tokens. Their targets are ignored."""
    start = find_boundary_tokens(tokenizer).start
    prompts = tokenize_texts(tokenizer, map(_require_prompt, texts), with_characters=True)
    return [
        _shorten_prompt(prompt, text.cuttable, room) or [start]
        for text, prompt in zip(texts, prompts, strict=True)
    ]


def _shorten_prompt(prompt: TextTokens, cut: tuple[int, int], room: int) -> list[int]:
    """Returns at most `room` ids of a prompt.

    Tokens are removed first from the end of the character range `cut`, then from the beginning of the prompt.
    """
    excess = len(prompt.ids) - room
    if excess <= 0:
        return list(prompt.ids)
    is_in_cut = (np.asarray(prompt.starts) >= cut[0]) & (np.asarray(prompt.ends) <= cut[1])
    kept = np.delete(np.asarray(prompt.ids), np.flatnonzero(is_in_cut)[-excess:])
    return kept[max(len(kept) - room, 0) :].tolist()
