"""Lists the annotation tools whose records are recognised, and converts their records."""

import itertools
from collections.abc import Iterator

from jaxft.data.sources.annotation_tools import (
    cluener,
    doccano,
    label_studio,
    prodigy,
    question_groups,
    spacy,
)
from jaxft.data.sources.annotation_tools.base import AnnotationTool, Item, Reading
from jaxft.errors import UserError

SAMPLED = 20  # records by which a tool is recognised

TOOLS: tuple[AnnotationTool, ...] = (
    label_studio.TOOL,
    prodigy.TOOL,
    spacy.TOOL,
    doccano.TOOL,
    cluener.TOOL,
    question_groups.TOOL,
)


def convert_items(items: Iterator[Item], reading: Reading, *, sampled: int = SAMPLED) -> Iterator[Item]:
    """Yields items in our form. If a tool is recognised by the first of them, logs its name and converts them.

    Args:
      items: the values of a source with their places.
      reading: what is read of them.
      sampled: the number of items that are read ahead; 1 for a pipe, whose lines are answered one by one.
    """
    first: list[Item] = []
    broken: Iterator[Item] = iter(())
    try:
        for item in itertools.islice(items, sampled):
            first.append(item)
    except UserError as error:  # which is raised in its place, after the items before it
        broken = _raise(error)
    items = itertools.chain(first, broken, items)
    values = [value for _, _, value in first]
    for tool in TOOLS if values else ():
        if tool.recognizes(values, reading.noun):
            reading.log_line(f"records of {tool.name}")
            items = tool.convert(items, reading)
            break
    else:
        if reading.labelled:
            _log_stray_record(first, reading)
    yield from items


def _log_stray_record(first: list[Item], reading: Reading) -> None:
    """Logs the first record that keeps the others from being recognised, if most others are of one tool."""
    for tool in TOOLS:
        strays = [item for item in first if not tool.recognizes([item[2]], reading.noun)]
        if 0 < len(strays) < len(first) / 2:
            where, _, value = strays[0]
            keys = f" has the keys {sorted(value)}" if isinstance(value, dict) else " is no object"
            reading.log(
                f"warning: {where}{keys} and is not of {tool.name}, but most records next to it are; so none is read "
                f"as a record of {tool.name}. Correct or remove it"
            )
            return


def _raise(error: UserError) -> Iterator[Item]:
    """Raises an error where an item is asked for."""
    raise error
    yield
