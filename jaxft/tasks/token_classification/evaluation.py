"""Measures predicted tags, as entities or as plain labels, and writes the files of an evaluation."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from jaxft.data.sources.tagged_sentences.sentence import Sentence
from jaxft.io.files import write_json, write_lines
from jaxft.metrics.entities import EntityState
from jaxft.metrics.tokens import LabelState
from jaxft.tasks.base import Split
from jaxft.tasks.report_files import print_report
from jaxft.tasks.token_classification import entity_errors, report


def make_tag_state(
    form_entities: bool, split: Split, tags: Sequence[Sequence[str]], loss_sum: float, weight_sum: float
) -> EntityState | LabelState:
    """Returns the metric state of predicted tags.

    Args:
      form_entities: True if the tags are IOB2.
      split: the data set.
      tags: the predicted tags of each sentence.
      loss_sum: the sum of the losses.
      weight_sum: the sum of the loss weights.
    """
    state = EntityState() if form_entities else LabelState()
    gold = [sentence.tags for sentence in split.examples]
    state.update(gold, tags, loss_sum=loss_sum, weight_sum=weight_sum)
    return state


def summarize(values: dict[str, float]) -> str:
    """Returns F1, token accuracy and loss as a line of the log."""
    percent = {name: f"{100 * value:.2f}" for name, value in values.items()}
    score = f"macro F1 {percent['token_f1_macro']}"
    if "entity_f1" in values:
        score = (
            f"entity F1 {percent['entity_f1']} (precision {percent['entity_precision']}, "
            f"recall {percent['entity_recall']})"
        )
    return f"{score}, token accuracy {percent['token_accuracy']}, loss {values.get('loss', float('nan')):.4f}"


def find_seen_entities(
    split: Split, tags: Sequence[Sequence[str]], train: Sequence[Sentence]
) -> list[tuple[list[str], list[str]]]:
    """Returns (words, types) of the entities of `train` that are also gold or predicted entities of the split.

    Args:
      split: the data set.
      tags: the predicted tags of each sentence of the split.
      train: the training sentences.
    """
    in_train = entity_errors.collect_entities((sentence.words, sentence.tags) for sentence in train)
    gold_and_predicted = (
        (sentence.words, sentence_tags)
        for sentence, predicted in zip(split.examples, tags, strict=True)
        for sentence_tags in (sentence.tags, predicted)
    )
    in_split = entity_errors.collect_entities(gold_and_predicted)
    return [(list(words), sorted(in_train[words])) for words in sorted(in_split.keys() & in_train.keys())]


def write_report(
    folder: Path,
    split: Split,
    state: EntityState | LabelState,
    tags: Sequence[Sequence[str]],
    seen: Sequence[tuple[list[str], list[str]]],
    intervals: dict | None,
    console: Console,
) -> dict[str, float]:
    """Writes eval/NAME.json and .txt, predictions/NAME.conll and, for entities, errors/NAME.tsv. Prints the report.

    Args:
      folder: the run's folder.
      split: the data set.
      state: the result of `make_tag_state` for `tags`.
      tags: the predicted tags of each sentence.
      seen: (words, types) of the entities in the training data, perhaps from several shards.
      intervals: the intervals of the metrics, or None.
      console: prints the report.

    Returns:
      The metrics.
    """
    words = [sentence.words for sentence in split.examples]
    gold = [sentence.tags for sentence in split.examples]
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
