"""Generates `demo:requests`: synthetic requests to a bank, with their intents and the spans of their slot values."""

import random
import re
from collections.abc import Iterator

from jaxft.data.demo import classification
from jaxft.data.sources.records.record_values import Record
from jaxft.errors import UserError

SIZES = {"train": 2000, "dev": 300, "test": 300}  # texts

_SEED = 20241121
_SPAN_LABELS = {"when": "date", "amount": "amount", "place": "place", "person": "person"}
_TWO_REQUESTS = 0.4  # share of texts with two requests
_LINKS = (" And ", " Also: ", " Another thing. ", " Besides, ")


def is_requests_source(source: str) -> bool:
    """Returns True if `generate_records` generates the source."""
    return source.partition("?")[0].partition("/")[0] == "demo:requests"


def generate_records(source: str) -> Iterator[Record]:
    """Generates the records `{"text", "intents", "spans"}` of `demo:requests/SPLIT`. No text occurs in two splits.

    A text has one or two intents, by name. A span is `{"start", "end", "label"}` in characters, `end` exclusive.
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
            text, intents, spans = _write_request(rng)
            if rng.random() < _TWO_REQUESTS:
                link = rng.choice(_LINKS)
                second_text, second_intents, second_spans = _write_request(rng)
                shift = len(text) + len(link)
                spans = spans + [(start + shift, end + shift, label) for start, end, label in second_spans]
                text, intents = text + link + second_text, sorted({*intents, *second_intents})
        seen.add(text)
        span_records = [{"start": start, "end": end, "label": label} for start, end, label in spans]
        record = {"text": text, "intents": intents, "spans": span_records}
        yield f"{source}, row {number}", f"{source}:{number}", record


def _write_request(rng: random.Random) -> tuple[str, list[str], list[tuple[int, int, str]]]:
    """Returns the text, intents and spans `(start, end, label)` of a new request."""
    intent = rng.choice(list(classification.REQUESTS))
    template = classification.choose_alternatives(rng, rng.choice(classification.REQUESTS[intent]))
    text, spans = "", []
    for index, piece in enumerate(re.split(r"\{(\w+)\}", template)):
        if index % 2:  # the name of a slot
            value = rng.choice(classification.WORDS[piece].split(","))
            spans.append((len(text), len(text) + len(value), _SPAN_LABELS[piece]))
            text += value
        else:
            text += piece
    return text[0].upper() + text[1:], [intent], spans
