"""Reads and encodes labelled texts, finds their labels, and checks data sets for doubtful ones."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias, cast

import numpy as np

from jaxft.data.encoding.labelled_texts import encode_labelled_texts
from jaxft.data.encoding.windows import Windows
from jaxft.data.sources.class_folders import choose_split_folder
from jaxft.data.sources.dev_split import find_text_overlap, split_dev_labelled_texts
from jaxft.data.sources.labelled_texts import (
    LabelledText,
    TextColumns,
    collect_label_names,
    read_labelled_texts,
)
from jaxft.data.sources.labels import MULTI, NUMBER, SINGLE, LabelRules, are_numbers, sort_labels
from jaxft.errors import UserError, list_names
from jaxft.hub.processors import TextProcessor
from jaxft.tasks.base import Chunk, Json, Log, Split
from jaxft.tasks.reading import TextData, cache_folder, chunk_by_words, count_set_in_any_process, count_words
from jaxft.tasks.sequence_classification.label_types import LabelType, make_label_type
from jaxft.tasks.sequence_classification.number_label import VALUE
from jaxft.tasks.sequence_classification.settings import Data, Settings
from jaxft.tasks.settings import make_file_format

_TWO_BITS = re.compile(r"[01](,\s*|[;|]\s*|\s+)[01]")  # a row of two labels; longer ones are read as rows

NEARLY_ALL = 0.9  # a share of texts from which on the key of the labels cannot be right
LEAST_TEXTS = 20  # fewer texts may have a label each
FoundLabel: TypeAlias = str | float | Sequence[str]  # see `find_labels`

DIVIDERS = (";", "|", ",")  # what may divide the labels in a string


class LabelledTexts(TextData[LabelledText]):
    """The texts or pairs of a run, each with a label, several labels or a number."""

    _config: Settings

    def __init__(self, config: Settings):
        super().__init__(config)
        first, second = "Anna moved to Berlin.", "She lives in Berlin now."
        pair = {config.data.text or "text": first, config.data.text_pair: second}
        self.example_input = json.dumps(pair) if config.data.text_pair else first

    def read(self, name: str, source: str, log: Log) -> list[LabelledText]:
        """Returns the texts of `source`; see `read_texts`."""
        return read_texts(self._config.data, self._config.model.problem_type, name, source, log)

    def split_dev(
        self, examples: Sequence[LabelledText], fraction: float, seed: int
    ) -> tuple[list[LabelledText], list[LabelledText]]:
        """Splits examples into (train, dev). Single labels keep their shares."""
        return split_dev_labelled_texts(examples, fraction, seed)

    def find_labels(self, examples: Sequence[LabelledText]) -> Sequence[Json]:
        """Returns the names of the labels; for numbers the least and the greatest."""
        return find_labels(examples)

    def make_labels(self, found_labels: Sequence[Json]) -> list[str]:
        """Returns the sorted labels, or `VALUE` if labels are numbers; see the function `make_labels`."""
        return make_labels(cast(Sequence[FoundLabel], found_labels))  # as `find_labels` returned them

    def iterate_texts(self, train: Sequence[LabelledText]) -> Iterator[str]:
        """Yields texts and their pairs."""
        return (text for example in train for text in (example.text, example.pair) if text is not None)

    def encode(
        self,
        examples: Sequence[LabelledText],
        labels: Sequence[str],
        processor: TextProcessor,
        *,
        only: range | None = None,
        cached: bool = True,
    ) -> Windows:
        """Returns the windows of examples; see `encode_labelled_texts`."""
        examples, data = examples if only is None else examples[only.start : only.stop], self._config.data
        return encode_labelled_texts(
            examples,
            *self.encode_targets(examples, labels),
            processor.tokenizer,
            max_length=data.max_length,
            truncation=data.truncation,
            stride=data.stride,
            cache_dir=cache_folder(data.cache_dir) if cached else None,
        )

    def encode_targets(
        self, examples: Sequence[LabelledText], labels: Sequence[str]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns what the loss compares with, [N] or [N, C], and bool [N], True for examples with a label."""
        return self._label_type(labels).encode_targets(examples)

    def check(
        self,
        split: Split[LabelledText, Windows],
        labels: Sequence[str],
        train: Sequence[LabelledText],
        log: Log,
    ) -> None:
        """Warns about labels that the model cannot predict, and logs the findings of `check_texts`."""
        self._label_type(labels).check(split.name, split.examples, log)
        check_texts(split, train, self._config.data, labels, log)

    def chunk(self, examples: Iterable[LabelledText | None], max_words: int) -> Iterator[Chunk[LabelledText]]:
        """Yields chunks of texts."""
        return chunk_by_words(examples, _count_words, max_words)

    def _label_type(self, labels: Sequence[str]) -> LabelType:
        return make_label_type(labels, self._config)


def _count_words(example: LabelledText) -> int:
    return 1 + count_words(example.text) + count_words(example.pair or "")


def read_texts(data: Data, problem_type: str, name: str, source: str, log: Log) -> list[LabelledText]:
    """Returns the texts of `source`, and logs their number, their labels and the number of empty texts.

    Args:
      data: the settings of the data.
      problem_type: the setting `config.model.problem_type`.
      name: the name of the data set, for the log.
      source: the path or address of its files.
      log: prints a line of the log.

    Raises:
      UserError: all texts are empty.
    """
    columns = TextColumns(data.text, data.text_pair, data.label)
    rules = LabelRules(problem_type, data.label_separator, data.label_names)
    examples = list(
        read_labelled_texts(
            choose_split_folder(source, name.partition("-")[0]),
            columns=columns,
            rules=rules,
            format=make_file_format(data),
            log=log,
        )
    )
    noun = "pairs" if data.text_pair else "texts"
    log(f"{name}: {source}: {len(examples):,} {noun}; {_describe_labels(examples)}")
    empty = [example for example in examples if not example.text.strip() and not (example.pair or "").strip()]
    if len(empty) == len(examples):
        raise UserError(
            f"{name}: {source}: all {len(empty):,} texts are empty; is config.data.text={data.text!r} right?"
        )
    if empty:
        log(
            f"warning: {name}: {len(empty):,} of {len(examples):,} texts are empty, and stay in; the first: "
            f"{empty[0].origin}"
        )
    if problem_type != NUMBER:
        _check_labels(examples, data, problem_type, name, source, log)
    return examples


def _check_labels(
    examples: Sequence[LabelledText], data: Data, problem_type: str, name: str, source: str, log: Log
) -> None:
    """Raises `UserError` for labels that are texts or identifiers; warns about strings that seem to hold several."""
    hint = f"is config.data.label={data.label!r} right?"
    copies = sum(example.label in (example.text.strip(), (example.text.strip(),)) for example in examples)
    if copies > NEARLY_ALL * len(examples):
        raise UserError(
            f"{name}: {source}: the label of {copies:,} of {len(examples):,} texts is the text itself; {hint}"
        )
    # The labels of a shard say nothing about those of all.
    if name.partition("-")[0] != "train" or data.shards > 1:
        return
    sets = {frozenset(example.label) for example in examples} if problem_type == MULTI else set()
    if len(sets) == 1 and (shared := sorted(*sets)):
        raise UserError(
            f"{name}: {source}: all {len(examples):,} texts have the same labels ({', '.join(shared)}), so there is "
            f"nothing to learn; {hint} If it holds a 0 or 1 for each label, name these in config.data.label_names"
        )
    names = collect_label_names(examples)
    if problem_type == SINGLE and all(_TWO_BITS.fullmatch(label) for label in names):
        raise UserError(
            f"{name}: {source}: labels such as {names[0]!r} have a 0 or 1 for each of 2 labels, but nothing names the "
            f"labels; name them in this order, config.data.label_names=('a', 'b'), and set config.model.problem_type="
            f"{MULTI!r} if a text may have several; {hint}"
        )
    if problem_type == SINGLE and len(examples) >= LEAST_TEXTS and len(names) > NEARLY_ALL * len(examples):
        number_hint = f" To predict numbers, set config.model.problem_type={NUMBER!r}" * are_numbers(names)
        raise UserError(
            f"{name}: {source}: {len(names):,} different labels for {len(examples):,} texts, such as "
            f"{examples[0].label!r}, so that no label can be learnt; {hint}{number_hint}"
        )
    for divider in DIVIDERS:
        if joined := _find_joined_names(names, divider):
            setting = f"config.data.label_separator={divider!r}"
            if problem_type == SINGLE:
                setting = f"config.model.problem_type={MULTI!r} and {setting}"
            count = "1 label seems" if len(joined) == 1 else f"{len(joined):,} labels seem"
            log(
                f"warning: {name}: {count} to be several with {divider!r} between, such as {joined[0]!r}; if "
                f"{'it is' if len(joined) == 1 else 'they are'}, set {setting}"
            )


def _find_joined_names(names: Sequence[str], divider: str) -> list[str]:
    """Returns the names that hold `divider` and have another name before or after it."""
    known = set(names)
    return [
        name
        for name in names
        if divider in name and any(piece.strip() in known for piece in name.split(divider))
    ]


def _describe_labels(examples: Sequence[LabelledText]) -> str:
    """Describes the labels of a data set, for the log."""
    if isinstance(examples[0].label, float):
        values = [example.label for example in examples]
        return f"numbers from {min(values):g} to {max(values):g}, mean {sum(values) / len(values):.4g}"
    labels = ([example.label] if isinstance(example.label, str) else example.label for example in examples)
    counts = Counter(name for names in labels for name in names)
    return (
        f"{len(counts)} labels: {list_names([f'{name} {count:,}' for name, count in counts.most_common()])}"
    )


def _describe_order(examples: Sequence[LabelledText], data: Data, labels: Sequence[str]) -> str:
    """Returns what the order of labels comes from, for the log."""
    if data.label_names:
        return "in the order of config.data.label_names"
    if "," in data.label and labels[0] in data.label:
        return "in the order of config.data.label"
    if any(example.label_names for example in examples):
        return "in the order that the data declares"
    return (
        f"sorted by {'number' if are_numbers(labels) else 'name'}; config.data.label_names sets another order"
    )


def find_labels(examples: Sequence[LabelledText]) -> list[FoundLabel]:
    """Returns what `make_labels` needs to know of the labels.

    These are the names, and before them each list of names in the order that the data or the settings declare; for
    numbers the least and the greatest.
    """
    if isinstance(examples[0].label, float):
        numbers = [example.label for example in examples]
        return [min(numbers), max(numbers)]
    declared = dict.fromkeys(example.label_names for example in examples if example.label_names)
    return [*map(list, declared), *collect_label_names(examples)]


def make_labels(found_labels: Sequence[FoundLabel]) -> list[str]:
    """Returns the labels: those that are declared, in their order, then the others by `sort_labels`.

    Args:
      found_labels: the results of `find_labels` for all shards, concatenated.

    Returns:
      The labels; `VALUE` if they are numbers.

    Raises:
      UserError: there is only one label or number, so there is nothing to learn.
    """
    if numbers := [item for item in found_labels if isinstance(item, float)]:
        if min(numbers) == max(numbers):
            raise UserError(
                f"all labels of the training data are {numbers[0]:g}: there is nothing to learn; is "
                "config.data.label right?"
            )
        return [VALUE]
    declared = dict.fromkeys(name for item in found_labels if isinstance(item, list | tuple) for name in item)
    names = sort_labels({item for item in found_labels if isinstance(item, str)})
    if len(names) < 2:
        raise UserError(
            f"the training data has {len(names)} label{': ' + repr(names[0]) if names else 's'}; two or more "
            "are needed to learn anything; is config.data.label right?"
        )
    return list(declared | dict.fromkeys(names))


def check_texts(
    split: Split[LabelledText, Windows],
    train: Sequence[LabelledText],
    data: Data,
    labels: Sequence[str],
    log: Log,
) -> None:
    """Logs if there are too many labels, and logs texts that are also in `train` and texts that are shortened.

    Args:
      labels: the labels of the model.
    """
    name, examples, windows = split.name, split.examples, split.windows
    is_train = examples is train
    is_whole_train = (
        is_train and data.shards == 1
    )  # a shard's number of texts says nothing about the number of labels
    if is_whole_train and len(labels) > max(len(examples) // 2, 2):
        log(f"warning: {len(labels):,} labels for {len(examples):,} texts; is config.data.label right?")
    if labels != [VALUE] and (is_whole_train or not is_train):
        present = collect_label_names(examples)
        if unused := [label for label in labels if label not in present]:
            hint = "" if is_train else "; its scores say nothing about that"
            log(
                f"warning: no text of {name} has the label{'s' * (len(unused) > 1)} {list_names(unused)}{hint}"
            )
    if is_train and name.partition("#")[2].partition("/")[0] in ("", "1") and labels != [VALUE]:
        log(f"the model's labels: {list_names(labels)} ({_describe_order(examples, data, labels)})")
    if not is_train and (shared := count_set_in_any_process(find_text_overlap(train, examples))):
        log(f"warning: {shared:,} of {len(examples):,} texts of {name} stand word for word in train")
    lost_tokens = windows.column("lost")
    if count := len(np.unique(windows.sentence[lost_tokens > 0])):
        hint = "config.data.truncation='windows' reads all"
        if data.truncation == "windows":
            hint = "config.data.truncation: windows read the longer text of a pair"
        log(
            f"{name}: {count:,} of {len(examples):,} texts are shortened, by {lost_tokens.max():,} tokens at most, to "
            f"fit config.data.max_length ({hint})"
        )
    if (extra := len(windows) - len(examples)) > 0:
        log(f"{name}: long texts have {extra:,} more windows, each with its text's label")
