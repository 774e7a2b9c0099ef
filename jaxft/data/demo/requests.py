"""Generates `demo:requests`, requests to a bank with their intents and the spans of what they name: synthetic texts."""

import random
import re
from collections.abc import Iterator

from jaxft.data.demo import classification
from jaxft.data.sources.records import Record
from jaxft.errors import UserError

SIZES = {"train": 2000, "dev": 300, "test": 300}  # texts

_SEED = 20241121
_SPAN_LABELS = {"when": "date", "amount": "amount", "place": "place", "person": "person"}
_TWO = 0.4  # the share of texts that hold two requests
_LINKS = (" And ", " Also: ", " Another thing. ", " Besides, ")


def is_requests_source(source: str) -> bool:
    """Whether `source` is one of `records`."""
    return source.partition("?")[0].partition("/")[0] == "demo:requests"


def generate_records(source: str) -> Iterator[Record]:
    """Records `{"text", "intents", "spans"}` of `demo:requests/SPLIT`; no text stands in two splits.

    intents: one or two names. spans: `{"start", "end", "label"}` in characters, `end` exclusive.
    """
    split = source.removeprefix("demo:requests").removeprefix("/")
    if split not in SIZES:
        raise UserError(
            f"{source}: no such corpus; expected {', '.join(f'demo:requests/{name}' for name in SIZES)}"
        )
    rng = random.Random(f"{_SEED}/{split}")
    seen: set[str] = set()
    for number in range(1, SIZES[split] + 1):
        text = None
        while text is None or text in seen or classification.assign_split(text) != split:
            text, intents, spans = _request(rng)
            if rng.random() < _TWO:
                link = rng.choice(_LINKS)
                second, more, others = _request(rng)
                shift = len(text) + len(link)
                spans = spans + [(start + shift, end + shift, label) for start, end, label in others]
                text, intents = text + link + second, sorted({*intents, *more})
        seen.add(text)
        named = [{"start": start, "end": end, "label": label} for start, end, label in spans]
        record = {"text": text, "intents": intents, "spans": named}
        yield f"{source}, row {number}", f"{source}:{number}", record


def _request(rng: random.Random) -> tuple[str, list[str], list[tuple[int, int, str]]]:
    """One request: text, intents, spans."""
    intent = rng.choice(list(classification.REQUESTS))
    template = classification.choose_alternatives(rng, rng.choice(classification.REQUESTS[intent]))
    text, spans = "", []
    for index, part in enumerate(re.split(r"\{(\w+)\}", template)):
        if index % 2:  # a slot's name
            value = rng.choice(classification.WORDS[part].split(","))
            spans.append((len(text), len(text) + len(value), _SPAN_LABELS[part]))
            part = value
        text += part
    return text[0].upper() + text[1:], [intent], spans
