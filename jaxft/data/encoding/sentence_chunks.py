"""Groups a stream of sentences into chunks that can be encoded independently."""

import collections
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from jaxft.data.sources.tagged_sentences.sentence import Sentence


class SentenceChunk(NamedTuple):
    """A piece of a stream. Sentences `first` up to `last` (exclusive) get windows; the others are context."""

    sentences: Sequence[Sentence]
    first: int
    last: int


def chunk_sentences(
    stream: Iterable[Sentence], max_words: int, context_words: int = 0
) -> Iterator[SentenceChunk]:
    """Yields chunks of at most `max_words` words (or a single longer sentence), in order.

    Each chunk also carries at least `context_words` words of the neighbouring sentences in the same document, if there
    are so many. If `context_words` is at least the `max_length` of `encode_sentences`, then
    `encode_sentences(chunk.sentences, ..., context=True, only=range(chunk.first, chunk.last))` gives the same windows
    as encoding the whole stream at once.
    """
    stream = iter(stream)
    pending: collections.deque[Sentence] = collections.deque()  # read, but not yet in a chunk
    context_before: list[Sentence] = []

    def peek(index: int) -> Sentence | None:
        if index == len(pending):
            pending.extend(itertools.islice(stream, 1))
        return pending[index] if index < len(pending) else None

    while peek(0):
        chunk = [pending.popleft()]
        words = len(chunk[0].words)
        while (sentence := peek(0)) and words + len(sentence.words) <= max_words:
            chunk.append(pending.popleft())
            words += max(len(sentence.words), 1)  # a sentence without words counts as one word
        document = chunk[-1].document
        following = words = 0
        while words < context_words and (sentence := peek(following)) and sentence.document == document:
            words += len(sentence.words)
            following += 1
        context_after = list(itertools.islice(pending, following))
        first = len(context_before)
        yield SentenceChunk(context_before + chunk + context_after, first, first + len(chunk))
        context_before = _last_sentences(context_before + chunk, document, context_words)


def _last_sentences(sentences: list[Sentence], document: int, min_words: int) -> list[Sentence]:
    """Returns the last sentences of a document that together have `min_words` words, or all of its sentences."""
    last: list[Sentence] = []
    words = 0
    for sentence in reversed(sentences):
        if words >= min_words or sentence.document != document:
            break
        last.append(sentence)
        words += len(sentence.words)
    return last[::-1]
