"""Collects predicted tags, measures them as entities or as plain labels, and writes the files of an evaluation."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias, cast

import numpy as np
from rich.console import Console

from jaxft.data.batching.batch import word_values
from jaxft.data.encoding.windows import Windows
from jaxft.data.sources.records.record_values import JsonObject
from jaxft.data.sources.tagged_sentences.sentence import Sentence
from jaxft.io.files import write_json, write_lines
from jaxft.layers.heads import crf
from jaxft.metrics.entities import EntityState
from jaxft.metrics.tokens import LabelState
from jaxft.tasks.base import Evaluator, Json, Outputs, Split
from jaxft.tasks.report_files import print_report
from jaxft.tasks.token_classification import entity_errors, report
from jaxft.tasks.token_classification.data import forms_entities
from jaxft.tasks.token_classification.settings import Settings

TagState: TypeAlias = EntityState | LabelState
SeenEntity: TypeAlias = tuple[
    list[str], list[str]
]  # the words of an entity, and its types in the training data


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The tags of a sentence with their probabilities, one for each word."""

    tags: list[str]
    scores: np.ndarray  # float32 [words]


class TagEvaluator(Evaluator[Sentence, Windows, list[Prediction], TagState]):
    """Evaluates tags, as entities if they are IOB2 tags. Predictions are a `Prediction` for each sentence."""

    def __init__(self, labels: Sequence[str], config: Settings):
        self.tuned = {}
        self._labels = labels
        self._form_entities = forms_entities(config, labels)
        self._find_labels = find_best_paths if config.model.crf else find_best_labels
        self.compares_with_train = self._form_entities  # evaluations count seen and unseen entities
        self.selection_metric = "entity_f1" if self._form_entities else "token_accuracy"

    def collect(self, split: Split[Sentence, Windows], outputs: Outputs) -> list[Prediction]:
        """Returns a `Prediction` for each sentence, with a tag for every word in sentences of any length."""
        lengths = [len(sentence.words) for sentence in split.examples]
        starts = np.concatenate(([0], np.cumsum(lengths, dtype=np.int64)))
        label, score = self._find_labels(split, outputs, starts)
        if unscored := int((label < 0).sum()):
            raise AssertionError(f"{unscored} words of {split.name} were not scored")
        tags = [self._labels[number] for number in label.tolist()]
        return [Prediction(tags[start:end], score[start:end]) for start, end in itertools.pairwise(starts)]

    def measure(
        self,
        split: Split[Sentence, Windows],
        predictions: list[Prediction],
        loss_sum: float,
        weight_sum: float,
    ) -> TagState:
        """Returns the metric state for words and, if labels form entities, for entities."""
        tags = [prediction.tags for prediction in predictions]
        return make_tag_state(self._form_entities, split, tags, loss_sum, weight_sum)

    def metric_names(self, split: Split[Sentence, Windows]) -> list[str]:
        """Returns the names of the metrics that `measure` computes on a split."""
        weight = float((split.windows.labels >= 0).any())
        gold = [sentence.gold_tags for sentence in split.examples]
        return list(make_tag_state(self._form_entities, split, gold, 0.0, weight).compute())

    def summarize(self, values: Mapping[str, float]) -> str:
        """Returns F1, token accuracy and loss as a line of the log."""
        percent = {name: f"{100 * value:.2f}" for name, value in values.items()}
        score = f"macro F1 {percent['token_f1_macro']}"
        if "entity_f1" in values:
            score = (
                f"entity F1 {percent['entity_f1']} (precision {percent['entity_precision']}, "
                f"recall {percent['entity_recall']})"
            )
        return f"{score}, token accuracy {percent['token_accuracy']}, loss {values.get('loss', float('nan')):.4f}"

    def find_seen(
        self, split: Split[Sentence, Windows], predictions: list[Prediction], train: Sequence[Sentence]
    ) -> list[SeenEntity]:
        """Returns the entities of `train` that are also gold or predicted entities of the split."""
        if not self._form_entities:
            return []
        return find_seen_entities(split, [prediction.tags for prediction in predictions], train)

    def write_evaluation(
        self,
        folder: Path,
        split: Split[Sentence, Windows],
        state: TagState,
        predictions: list[Prediction],
        *,
        seen: Sequence[Json],
        samples: int,
        seed: int,
        console: Console,
    ) -> dict[str, float]:
        """Writes the files of an evaluation, prints its report and returns the metrics; see `write_report`."""
        tags = [prediction.tags for prediction in predictions]
        intervals = state.intervals(samples=samples, seed=seed) if samples else None
        seen_entities = cast(Sequence[SeenEntity], seen)  # as `find_seen` returned them
        return write_report(folder, split, state, tags, seen_entities, intervals, console)


def find_best_labels(
    split: Split[Sentence, Windows], outputs: Outputs, starts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the most probable label of each word, int32 (-1 for an unscored word), and its probability, float32.

    Args:
      split: the data set.
      outputs: each batch of the split with the outputs of `TokenClassification.predict`.
      starts: int64 [sentences + 1], the index of each sentence's first word, and the number of all words.
    """
    label = np.full(starts[-1], -1, np.int32)
    score = np.zeros(starts[-1], np.float32)
    for batch, arrays in outputs:
        sentence, word, value = word_values(batch, split.windows, arrays["label"])
        label[starts[sentence] + word] = value
        score[starts[sentence] + word] = word_values(batch, split.windows, arrays["score"])[2]
    return label, score


def find_best_paths(
    split: Split[Sentence, Windows], outputs: Outputs, starts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the labels of the best paths and their probabilities. If any word is not scored, all labels are -1.

    The arguments are those of `find_best_labels`, with the outputs of `CRFTagging.predict`.
    """
    words, chain = starts[-1], None
    emissions = np.zeros((0, 0), np.float32)
    is_scored = np.zeros(words, bool)
    for batch, arrays in outputs:
        sentence, word, value = word_values(batch, split.windows, arrays["emissions"])
        if chain is None:
            emissions = np.zeros((words, value.shape[-1]), np.float32)
            chain = crf.Chain(*(arrays[name] for name in crf.Chain._fields))  # the same in every batch
        emissions[starts[sentence] + word] = value
        is_scored[starts[sentence] + word] = True
    if chain is None or not is_scored.all():
        return np.full(words, -1, np.int32), np.zeros(words, np.float32)
    return crf.find_best_paths(emissions, starts, chain)


def make_tag_state(
    form_entities: bool,
    split: Split[Sentence, Windows],
    tags: Sequence[Sequence[str]],
    loss_sum: float,
    weight_sum: float,
) -> TagState:
    """Returns the metric state of predicted tags.

    Args:
      form_entities: True if the tags are IOB2.
      split: the data set.
      tags: the predicted tags of each sentence.
      loss_sum: the sum of the losses.
      weight_sum: the sum of the loss weights.
    """
    state: TagState = EntityState() if form_entities else LabelState()
    gold = [sentence.gold_tags for sentence in split.examples]
    state.update(gold, tags, loss_sum=loss_sum, weight_sum=weight_sum)
    return state


def find_seen_entities(
    split: Split[Sentence, Windows], tags: Sequence[Sequence[str]], train: Sequence[Sentence]
) -> list[SeenEntity]:
    """Returns the entities of `train` that are also gold or predicted entities of the split.

    Args:
      split: the data set.
      tags: the predicted tags of each sentence of the split.
      train: the training sentences.
    """
    in_train = entity_errors.collect_entities((sentence.words, sentence.gold_tags) for sentence in train)
    gold_and_predicted = (
        (sentence.words, sentence_tags)
        for sentence, predicted in zip(split.examples, tags, strict=True)
        for sentence_tags in (sentence.gold_tags, predicted)
    )
    in_split = entity_errors.collect_entities(gold_and_predicted)
    return [(list(words), sorted(in_train[words])) for words in sorted(in_split.keys() & in_train.keys())]


def write_report(
    folder: Path,
    split: Split[Sentence, Windows],
    state: TagState,
    tags: Sequence[Sequence[str]],
    seen: Sequence[SeenEntity],
    intervals: JsonObject | None,
    console: Console,
) -> dict[str, float]:
    """Writes eval/NAME.json and .txt, predictions/NAME.conll and, for entities, errors/NAME.tsv. Prints the report.

    Args:
      folder: the run's folder.
      split: the data set.
      state: the result of `make_tag_state` for `tags`.
      tags: the predicted tags of each sentence.
      seen: the entities in the training data, perhaps from several shards.
      intervals: the intervals of the metrics, or None.
      console: prints the report.

    Returns:
      The metrics.
    """
    words = [sentence.words for sentence in split.examples]
    gold = [sentence.gold_tags for sentence in split.examples]
    errors = None
    if isinstance(state, EntityState):
        seen_types: entity_errors.EntityTypes = {}
        for entity_words, types in seen:
            seen_types.setdefault(tuple(entity_words), set()).update(types)
        errors = entity_errors.find_errors(words, gold, tags, seen_types)
        write_lines(folder / "errors" / f"{split.name}.tsv", report.error_lines(errors))
    record = report.evaluation_record(state, data=split.source, intervals=intervals, errors=errors)
    write_json(folder / "eval" / f"{split.name}.json", record)
    lines = report.conll_lines(words, gold, tags)
    write_lines(folder / "predictions" / f"{split.name}.conll", lines)
    print_report(console, folder, split.name, report.render_brief(record), report.render_report(record))
    console.print(f"{split.name}: {sum(map(len, words)):,} words scored, 0 words unscored")
    return record["metrics"]
