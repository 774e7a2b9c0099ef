"""Reads and encodes tagged sentences, finds their labels, and checks data sets for doubtful ones."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import cast

from jaxft.data.encoding.sentence_chunks import chunk_sentences
from jaxft.data.encoding.sentences import encode_sentences
from jaxft.data.encoding.windows import Windows
from jaxft.data.sources.dev_split import find_sentence_overlap, split_dev_sentences
from jaxft.data.sources.tagged_sentences import tag_schemes
from jaxft.data.sources.tagged_sentences.sentence import Sentence
from jaxft.data.sources.tagged_sentences.sentences import read_sentences
from jaxft.data.sources.tagged_sentences.span_offsets import SpanRules
from jaxft.errors import UserError
from jaxft.hub.processors import TextProcessor
from jaxft.tasks.base import Chunk, Json, Log, Split
from jaxft.tasks.reading import TextData, cache_folder, chunk_by_words, count_set_in_any_process
from jaxft.tasks.settings import make_file_format
from jaxft.tasks.token_classification.settings import Data, Settings

LONG_SENTENCE = 1000  # words


class TaggedSentences(TextData[Sentence]):
    """The sentences of a run, with a tag for each word."""

    _config: Settings
    reads_words = True
    example_input = "Anna Smith moved to Berlin ."

    def read(self, name: str, source: str, log: Log) -> list[Sentence]:
        """Returns the sentences of `source`; see `read_tagged_sentences`."""
        return read_tagged_sentences(self._config.data, name, source, log)

    def split_dev(
        self, sentences: Sequence[Sentence], fraction: float, seed: int
    ) -> tuple[list[Sentence], list[Sentence]]:
        """Splits sentences into (train, dev) without dividing a document."""
        return split_dev_sentences(sentences, fraction, seed)

    def find_labels(self, sentences: Sequence[Sentence]) -> list[str]:
        """Returns the tags of the sentences."""
        return sorted({tag for sentence in sentences for tag in sentence.gold_tags})

    def make_labels(self, found_labels: Sequence[Json]) -> list[str]:
        """Returns IOB2 labels of the entity types, or the plain labels; see `make_tag_labels`."""
        return make_tag_labels(cast(Sequence[str], found_labels))  # as `find_labels` returned them

    def iterate_texts(self, train: Sequence[Sentence]) -> Iterator[str]:
        """Yields the words of each sentence, separated by spaces."""
        return (" ".join(sentence.words) for sentence in train)

    def encode(
        self,
        sentences: Sequence[Sentence],
        labels: Sequence[str],
        processor: TextProcessor,
        *,
        only: range | None = None,
        cached: bool = True,
    ) -> Windows:
        """Returns the windows of sentences; see `encode_sentences`."""
        data = self._config.data
        return encode_sentences(
            sentences,
            processor.tokenizer,
            {label: i for i, label in enumerate(labels)},
            max_length=self._config.text_length,
            prompt_length=self._config.adapter.prompt_length,
            label_subwords=data.label_subwords,
            context=data.context,
            stride=data.stride,
            cache_dir=cache_folder(data.cache_dir) if cached else None,
            only=only,
        )

    def check(
        self, split: Split[Sentence, Windows], labels: Sequence[str], train: Sequence[Sentence], log: Log
    ) -> None:
        """Warns about doubtful tags, and about sentences that are also in `train`; see `check_sentences`."""
        check_sentences(
            split,
            train,
            data=self._config.data,
            labels=labels,
            labels_form_entities=forms_entities(self._config, labels),
            log=log,
        )

    def chunk(self, sentences: Iterable[Sentence | None], max_words: int) -> Iterator[Chunk[Sentence]]:
        """Yields chunks of sentences; with `config.data.context` also as many neighbours as a window can hold."""
        data = self._config.data
        if not data.context:
            yield from chunk_by_words(sentences, _count_words, max_words)
            return
        arrived = (sentence for sentence in sentences if sentence is not None)
        for chunk in chunk_sentences(arrived, max_words, data.max_length):
            yield Chunk(chunk.sentences, range(chunk.first, chunk.last))


def _count_words(sentence: Sentence) -> int:
    return max(len(sentence.words), 1)


def read_tagged_sentences(data: Data, name: str, source: str, log: Log) -> list[Sentence]:
    """Returns the sentences of `source` with tags in IOB2, or with plain labels.

    Logs the number of sentences, the tags that were invalid in their scheme, and the count of each entity type or
    label.

    Args:
      data: the settings of the data.
      name: the name of the data set, for the log.
      source: the path or address of its files.
      log: prints a line of the log.
    """
    sentences = list(
        read_sentences(
            source,
            format=make_file_format(data),
            word_column=data.word_column,
            tag_column=data.tag_column,
            columns=dict(data.columns),
            rules=SpanRules(data.offsets, data.span_end, data.overlaps),
            log=log,
        )
    )
    converted, conversion = tag_schemes.convert_sentences_to_iob2(
        sentences, None if data.scheme == "auto" else data.scheme, data.entity_type
    )
    are_plain = conversion.scheme == tag_schemes.NO_SCHEME
    if are_plain:
        counter = Counter(tag for sentence in converted for tag in sentence.gold_tags)
    else:
        counter = Counter(
            kind for sentence in converted for kind, _, _ in tag_schemes.extract_entities(sentence.gold_tags)
        )
    counts = ", ".join(f"{kind} {count:,}" for kind, count in sorted(counter.items())) or "none"
    log(f"{name}: {source}: {conversion}; {'labels' if are_plain else 'entities'}: {counts}")
    _warn_of_doubts(converted, list(counter), name, log)
    return converted


def _warn_of_doubts(sentences: Sequence[Sentence], kinds: Sequence[str], name: str, log: Log) -> None:
    """Warns about a sentence that is as long as a document, and about labels that differ in letter case only."""
    longest = max(sentences, key=lambda sentence: len(sentence.words))
    if len(longest.words) > LONG_SENTENCE:
        log(
            f"warning: {name}: the sentence at {longest.origin} has {len(longest.words):,} words; are sentences "
            "divided (by blank lines, in columns)?"
        )
    spellings: dict[str, list[str]] = {}
    for kind in sorted(kinds):
        spellings.setdefault(kind.casefold(), []).append(kind)
    if doubtful := [", ".join(group) for group in spellings.values() if len(group) > 1]:
        log(
            f"warning: {name}: labels that differ in letter case only are different labels: {'; '.join(doubtful)}"
        )


def forms_entities(config: Settings, labels: Sequence[str]) -> bool:
    """Returns True if labels are IOB2 tags, which join words into entities; False if they are plain labels."""
    return config.data.scheme != tag_schemes.NO_SCHEME and tag_schemes.is_iob2(labels)


def make_tag_labels(found_tags: Sequence[str]) -> list[str]:
    """Returns the labels for the tags of the training data.

    For IOB2 tags, the labels are O, then B- and I- of each entity type in alphabetical order. Plain labels are sorted.
    """
    tags = set(found_tags)
    if not tag_schemes.is_iob2(tags):
        return sorted(tags)
    types = sorted({tag[2:] for tag in tags if tag != "O"})
    return ["O"] + [f"{prefix}-{kind}" for kind in types for prefix in "BI"]


def check_sentences(
    split: Split[Sentence, Windows],
    train: Sequence[Sentence],
    *,
    data: Data,
    labels: Sequence[str],
    labels_form_entities: bool,
    log: Log,
) -> None:
    """Warns about tags that the model cannot predict, and about sentences that are also in the training data.

    Args:
      split: the data set.
      train: the training sentences.
      data: the settings of the data.
      labels: the labels of the model.
      labels_form_entities: the result of `forms_entities` for these labels.
      log: prints a line of the log.

    Raises:
      UserError: the model has plain labels but the data set has entities, or the reverse.
    """
    name, sentences = split.name, split.examples
    is_train = sentences is train
    # A shard of the training data may have no entities although other shards have some.
    tags = set(labels) if is_train else {tag for sentence in sentences for tag in sentence.gold_tags}
    if tags <= {"O"}:
        column = -1 if data.tag_column is None else data.tag_column
        log(f"warning: {name} ({split.source}) holds no entities; is config.data.tag_column={column} right?")
    unseen = Counter(tag for sentence in sentences for tag in sentence.gold_tags if tag not in labels)
    if unseen and data.scheme == "auto" and tag_schemes.is_iob2(unseen) != labels_form_entities:
        raise UserError(
            f"{name} ({split.source}): tags such as {next(iter(unseen))!r}, but the model's labels are "
            f"{', '.join(labels[:4])}...: entities and labels of no scheme do not mix; set config.data.scheme "
            "to the data's scheme, or to none for labels that are to stay as they are"
        )
    if unseen:
        counts = ", ".join(f"{tag} {count}" for tag, count in sorted(unseen.items()))
        log(f"warning: {name} has labels that train has not; they count as missed: {counts}")
    if not is_train and (shared := count_set_in_any_process(find_sentence_overlap(train, sentences))):
        log(f"warning: {shared:,} of {len(sentences):,} sentences of {name} stand word for word in train")
    if is_train and data.context and len({sentence.document for sentence in train}) == len(train):
        log("warning: config.data.context=True, but each sentence of train is a document of its own")
