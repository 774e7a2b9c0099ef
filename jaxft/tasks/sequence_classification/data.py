"""Reads and encodes labelled texts, finds their labels, and checks data sets for doubtful ones."""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import cast

import numpy as np

from jaxft.data.encoding.labelled_texts import encode_labelled_texts
from jaxft.data.encoding.windows import Windows
from jaxft.data.sources.class_folders import choose_split_folder
from jaxft.data.sources.dev_split import find_text_overlap, split_dev_labelled
from jaxft.data.sources.labelled_texts import (
    LabelledText,
    TextColumns,
    read_labelled_texts,
)
from jaxft.data.sources.labels import NUMBER, LabelRules
from jaxft.errors import UserError
from jaxft.hub.processors import TextProcessor
from jaxft.tasks.base import Chunk, Json, Log, Split
from jaxft.tasks.labels.label_types import LabelType, make_label_type
from jaxft.tasks.labels.names import (
    NEARLY_ALL,
    FoundLabel,
    check_labels,
    describe_labels,
    find_labels,
    make_labels,
    warn_of_labels,
)
from jaxft.tasks.reading import TextData, cache_folder, chunk_by_words, count_set_in_any_process, count_words
from jaxft.tasks.sequence_classification.settings import Data, Settings
from jaxft.tasks.settings import make_file_format


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
        return split_dev_labelled(examples, [(e.text, e.pair) for e in examples], fraction, seed)

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
            max_length=self._config.text_length,
            prompt_length=self._config.adapter.prompt_length,
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
    log(f"{name}: {source}: {len(examples):,} {noun}; {describe_labels(examples)}")
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
        copies = sum(example.label in (example.text.strip(), (example.text.strip(),)) for example in examples)
        if copies > NEARLY_ALL * len(examples):
            raise UserError(
                f"{name}: {source}: the label of {copies:,} of {len(examples):,} texts is the text itself; is "
                f"config.data.label={data.label!r} right?"
            )
        check_labels(examples, data, problem_type, "text", name, source, log)
    return examples


def check_texts(
    split: Split[LabelledText, Windows],
    train: Sequence[LabelledText],
    data: Data,
    labels: Sequence[str],
    log: Log,
) -> None:
    """Logs the findings of `warn_of_labels`, texts that are also in `train`, and texts that are shortened.

    Args:
      labels: the labels of the model.
    """
    name, examples, windows = split.name, split.examples, split.windows
    is_train = examples is train
    warn_of_labels(examples, data, labels, "text", name, is_train, log)
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
