"""Lists the annotation tools whose records are recognised, and converts their records."""

import itertools
from collections.abc import Collection, Iterator

from jaxft.data.sources import files
from jaxft.data.sources.annotation_tools import doccano, label_studio, prodigy, spacy
from jaxft.data.sources.annotation_tools.base import AnnotationTool, Item, Reading

SAMPLED = 20  # records by which a tool is recognised

TOOLS: tuple[AnnotationTool, ...] = (label_studio.TOOL, prodigy.TOOL, spacy.TOOL, doccano.TOOL)


def convert_items(
    items: Iterator[Item],
    noun: str,
    name: str,
    log: files.Log,
    *,
    sampled: int = SAMPLED,
    labelled: bool = True,
    filter_keys: Collection[str] = (),
) -> Iterator[Item]:
    """Yields items in our form. If a tool is recognised by the first of them, logs its name and converts them.

    Args:
      items: the values of a source with their places.
      noun: the noun of the examples that are read.
      name: the name of the source, for the log.
      log: prints a line about the source.
      sampled: the number of items that are read ahead; 1 for a pipe, whose lines are answered one by one.
      labelled: True if labels are read.
      filter_keys: the keys of the records by which the user chooses some.
    """
    first = list(itertools.islice(items, sampled))
    items = itertools.chain(first, items)
    values = [value for _, _, value in first]
    for tool in TOOLS if values else ():
        if tool.recognizes(values, noun):
            log(f"{name}: records of {tool.name}")
            reading = Reading(noun, name, log, labelled, frozenset(filter_keys))
            items = tool.convert(items, reading)
            break
    yield from items
