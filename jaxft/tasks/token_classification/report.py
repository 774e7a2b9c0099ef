"""Measures tags of words, as entities or as labels by themselves, and writes what a user reads of it."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from jaxft.data.sources.sentence import Sentence
from jaxft.io import write_json, write_lines
from jaxft.metrics.entities import EntityState
from jaxft.metrics.tokens import LabelState
from jaxft.tasks.base import Split
from jaxft.tasks.token_classification import entity_errors, entity_report


def make_tag_state(
    entities: bool, split: Split, tags: Sequence[Sequence[str]], loss_sum: float, weight_sum: float
) -> EntityState | LabelState:
    """The metric state of predicted `tags`, of which `entities` says whether they are IOB2."""
    found = EntityState() if entities else LabelState()
    found.update([s.tags for s in split.examples], tags, loss_sum=loss_sum, weight_sum=weight_sum)
    return found


def summarize(values: dict[str, float]) -> str:
    """The metrics of a log line."""
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
    """Words and types of the entities of `train` that `split` has too, by its own or the predicted `tags`."""
    known = entity_errors.seen_entities((s.words, s.tags) for s in train)
    both = (
        (s.words, tags) for s, found in zip(split.examples, tags, strict=True) for tags in (s.tags, found)
    )
    asked = entity_errors.seen_entities(both)
    return [(list(words), sorted(known[words])) for words in sorted(asked.keys() & known.keys())]


def write_report(
    folder: Path,
    split: Split,
    compared: Sequence[tuple[list[str], list[str]]],
    measured: EntityState | LabelState,
    tags: Sequence[Sequence[str]],
    intervals: dict | None,
    console: Console,
) -> dict[str, float]:
    """Writes eval/NAME.json, predictions/NAME.conll and, of entities, errors/NAME.tsv, and prints the report.

    compared: words and types of entities that count as seen. tags: predicted. Returns the metrics.
    """
    words, gold = [s.words for s in split.examples], [s.tags for s in split.examples]
    errors = None
    if isinstance(measured, EntityState):
        known: entity_errors.SeenEntities = {}
        for entity, kinds in compared:  # which several parts of the training data may have
            known.setdefault(tuple(entity), set()).update(kinds)
        errors = entity_errors.find_errors(words, gold, tags, known)
        write_lines(folder / "errors" / f"{split.name}.tsv", entity_report.error_lines(errors))
    result = entity_report.evaluation_record(measured, data=split.source, intervals=intervals, errors=errors)
    write_json(folder / "eval" / f"{split.name}.json", result)
    lines = entity_report.conll_lines(words, gold, tags)
    write_lines(folder / "predictions" / f"{split.name}.conll", lines)
    console.print(entity_report.render_report(result))
    console.print(f"{split.name}: {sum(map(len, words)):,} words scored, 0 words unscored")
    return result["metrics"]
