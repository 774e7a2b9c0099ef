"""Reads tagged sentences, finds their labels, and checks data sets for doubtful ones."""

from collections import Counter
from collections.abc import Sequence

from jaxft.data.sources.dev_split import find_sentence_overlap
from jaxft.data.sources.tagged_sentences import tag_schemes
from jaxft.data.sources.tagged_sentences.sentence import Sentence
from jaxft.data.sources.tagged_sentences.sentences import read_sentences
from jaxft.data.sources.tagged_sentences.span_offsets import SpanRules
from jaxft.errors import UserError
from jaxft.tasks.base import Log, Split, count_set_in_any_process
from jaxft.tasks.settings import make_file_format
from jaxft.tasks.token_classification.settings import Data, Settings

LONG_SENTENCE = 1000  # words


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
        counter = Counter(tag for sentence in converted for tag in sentence.tags)
    else:
        counter = Counter(
            kind for sentence in converted for kind, _, _ in tag_schemes.extract_entities(sentence.tags)
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
    split: Split,
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
    tags = set(labels) if is_train else {tag for sentence in sentences for tag in sentence.tags}
    if tags <= {"O"}:
        column = -1 if data.tag_column is None else data.tag_column
        log(f"warning: {name} ({split.source}) holds no entities; is config.data.tag_column={column} right?")
    unseen = Counter(tag for sentence in sentences for tag in sentence.tags if tag not in labels)
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
