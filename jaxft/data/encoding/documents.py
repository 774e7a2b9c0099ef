"""Turns texts into windows of tokens for a language model, so that each token is predicted exactly once.

Labels are shifted: the label at a position is the token after it, so that inputs and labels of a window differ by
one place and no text is lost between windows. The token at the end of a text is only ever a label.
"""

import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from jaxft.data.encoding.cache import CHUNK_CHARACTERS, ChunkEncoders, load_or_encode, split_by_size
from jaxft.data.encoding.document_tokens import TokenStream, make_token_stream, tokenize_with_counts
from jaxft.data.encoding.sentences import IGNORED
from jaxft.data.encoding.tokenizer import (
    BoundaryTokens,
    describe_tokenizer,
    find_boundary_tokens,
    tokenize_in_batches,
)
from jaxft.data.encoding.windows import Windows
from jaxft.data.ragged import offsets_from_lengths, ragged_arange
from jaxft.data.sources.documents import Document
from jaxft.errors import UserError

LAYOUTS = ("documents", "blocks")
_FORMAT = 1  # part of the fingerprint: raise it when the same input would give other windows


def encode_documents(
    texts: Sequence[Document],
    tokenizer,
    *,
    max_length: int,
    layout: str = "documents",
    stride: int | None = None,
    cache_dir: str | os.PathLike | None = None,
) -> Windows:
    """Encodes texts as windows of at most `max_length` tokens.

    The windows have columns `text_words` and `text_bytes` (int32 `[N]`): the words (between white space) and UTF-8
    bytes of the text that a window predicts. The column `word` is -1 throughout, `sentence` is the index of the text or
    of the block. Pairs of prompt and target have columns `prompt_lost` and `target_lost`, the tokens that did not fit.

    Layout "documents": each document begins with the start token, and its tokens and the end token are predicted
    once. A document longer than a window is cut into several; all but the first begin with `stride` (default 0) tokens
    of context, which the window before predicts. A prompt and its target are one window, which predicts the target's
    tokens and the end token. If they do not fit, the prompt is shortened, and if that is not enough the target too,
    which then has no end token.

    Layout "blocks": all documents in a row, with an end token after each, are cut into blocks of `max_length`. The
    rest that fills no block is dropped, and the first token of a block is not predicted. Source: `group_texts` of
    transformers' run_clm.py.

    Args:
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
        if (
            layout == "blocks"
        ):  # each chunk begins with the rest of the one before, so one process encodes them all
            encode_all = functools.partial(_encode_blocks, chunks, texts, tokenizer, max_length, special)
            return {range(len(texts)): encode_all}
        if has_prompts:
            encode = functools.partial(_encode_prompts_and_targets, texts, tokenizer, max_length, special)
        else:
            encode = functools.partial(_encode_documents, texts, tokenizer, max_length, stride or 0, special)
        return {chunk: functools.partial(encode, chunk) for chunk in chunks}

    return load_or_encode(path, make_encoders)


def _fingerprint(
    texts: Sequence[Document], tokenizer, max_length: int, layout: str, stride: int | None
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
    texts: Sequence[Document], tokenizer, max_length: int, stride: int, special: BoundaryTokens, chunk: range
) -> Iterator[Windows]:
    """Yields the windows of the documents `chunk` in one table."""
    stream = make_token_stream(
        [text.text for text in texts[chunk.start : chunk.stop]], tokenizer, special.end
    )
    text_offsets = offsets_from_lengths(
        stream.lengths
    )  # a text's first label; inputs are these shifted by one
    inputs = np.empty_like(stream.ids)
    inputs[1:] = stream.ids[:-1]
    inputs[text_offsets[:-1]] = special.start
    step = max_length - stride
    # The first window predicts max_length tokens, each later one `step`.
    window_counts = 1 + -(-np.maximum(stream.lengths - max_length, 0) // step)
    text = np.repeat(np.arange(len(chunk)), window_counts)
    number = ragged_arange(0, window_counts)
    scored = np.where(number == 0, 0, max_length + (number - 1) * step)
    begin = np.where(number == 0, 0, scored - stride)
    end = np.minimum(begin + max_length, stream.lengths[text])
    begin, scored, end = (text_offsets[text] + position for position in (begin, scored, end))
    yield _cut_windows(inputs, stream.ids, begin, scored, end, chunk.start + text, stream)


def _encode_blocks(
    chunks: list[range], texts: Sequence[Document], tokenizer, length: int, special: BoundaryTokens
) -> Iterator[Windows]:
    """Yields the blocks that each chunk of documents fills; the tokens that are left begin the next chunk."""
    rest, done = None, 0
    for chunk in chunks:
        batch = [text.text for text in texts[chunk.start : chunk.stop]]
        stream = make_token_stream(batch, tokenizer, special.end)
        columns = [stream.ids, stream.word_counts, stream.byte_counts]
        if rest is not None:
            columns = [np.concatenate(pair) for pair in zip(rest, columns, strict=True)]
        count = len(columns[0]) // length
        rest = [column[count * length :] for column in columns]
        if not count:
            continue
        ids, word_counts, byte_counts = (column[: count * length] for column in columns)
        begin = np.arange(count) * length
        labels = np.append(ids[1:], IGNORED).astype(np.int32)
        labels[begin + length - 1] = IGNORED
        # The counts of a position are those of its label, the next token.
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
    """Cuts windows `[begin, end)` out of flat inputs and labels; labels count in `[scored, end + last_scored)`."""
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
    offsets: np.ndarray, input_ids: np.ndarray, labels: np.ndarray, **window_columns
) -> Windows:
    """Makes a table of windows whose flat columns are cut at `offsets` `[N + 1]`; `window_columns` are `[N]` each."""
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
    texts: Sequence[Document], tokenizer, max_length: int, special: BoundaryTokens, chunk: range
) -> Iterator[Windows]:
    """Yields the windows of the pairs `chunk` in one table."""
    texts = texts[chunk.start : chunk.stop]
    prompts = _encode_texts([text.prompt for text in texts], tokenizer)
    targets = tokenize_with_counts([text.text for text in texts], tokenizer)
    inputs, labels = [], []
    counts = {name: [] for name in ("text_words", "text_bytes", "prompt_lost", "target_lost")}
    for text, prompt, target in zip(texts, prompts, targets, strict=True):
        prompt_ids = _shorten_prompt(prompt, text.cuttable, max(max_length - len(target.ids), 1))
        counts["prompt_lost"].append(len(prompt.ids) - len(prompt_ids))
        if not prompt_ids:
            prompt_ids = [special.start]
        input_ids = [*prompt_ids, *target.ids]
        label_ids = [IGNORED] * (len(prompt_ids) - 1) + [*target.ids, special.end]
        inputs.append(np.array(input_ids[:max_length], np.int32))
        labels.append(np.array(label_ids[:max_length], np.int32))
        most_predicted = max_length - len(prompt_ids) + 1
        counts["text_words"].append(int(target.word_counts[:most_predicted].sum()))
        counts["text_bytes"].append(int(target.byte_counts[:most_predicted].sum()))
        counts["target_lost"].append(max(len(input_ids) - max_length, 0))
    offsets = offsets_from_lengths([len(input_ids) for input_ids in inputs])
    sentence = chunk.start + np.arange(len(texts))
    yield _make_windows(offsets, np.concatenate(inputs), np.concatenate(labels), sentence=sentence, **counts)


def encode_prompts(texts: Sequence[Document], tokenizer, room: int) -> list[list[int]]:
    """Returns the token ids of the prompts, each shortened to `room` whatever its target."""
    start = find_boundary_tokens(tokenizer).start
    prompts = _encode_texts([text.prompt for text in texts], tokenizer)
    return [
        _shorten_prompt(prompt, text.cuttable, room) or [start]
        for text, prompt in zip(texts, prompts, strict=True)
    ]


def _encode_texts(texts: Sequence[str], tokenizer) -> Iterator:
    for _, encodings in tokenize_in_batches(tokenizer, texts):
        yield from encodings


def _shorten_prompt(encoding, cut: tuple[int, int], room: int) -> list[int]:
    """Returns at most `room` ids of a prompt.

    Tokens are taken out at the end of the characters `cut`, and then from the prompt's beginning.
    """
    ids, excess = encoding.ids, len(encoding.ids) - room
    if excess <= 0:
        return ids
    in_cut = [i for i, (start, end) in enumerate(encoding.offsets) if cut[0] <= start and end <= cut[1]]
    removed = set(in_cut[-excess:])
    kept = [token for i, token in enumerate(ids) if i not in removed]
    return kept[len(kept) - room :] if len(kept) > room else kept
