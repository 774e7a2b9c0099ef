"""Generates `demo:similarity`: synthetic pairs of requests to a bank, with a number for their similarity."""

import random
import re
from collections.abc import Iterator

from jaxft.data.demo import classification
from jaxft.data.sources.records.record_values import Record
from jaxft.errors import UserError

SIZES = {"train": 2500, "dev": 400, "test": 400}  # pairs

_SEED = 20261124
# Shares of pairs with the same request, and with the same subject (only for subjects with several requests).
_SAME_REQUEST, _SAME_SUBJECT = 0.45, 0.25
_REPEATED = 0.5  # the chance that the second request repeats a slot value of the first


def generate_records(source: str) -> Iterator[Record]:
    """Generates the records `{"text", "text_pair", "label"}` of `demo:similarity/SPLIT`.

    No pair occurs in two splits. The label is from 0 to 5. The same request in any words scores 3, and another request
    on the same subject (card, transfer, ...) scores 1. Up to 2 more are added by the share of amounts, places, persons
    and times that both requests name; the same request that names none gets 2.
    """
    split = source.removeprefix("demo:similarity").removeprefix("/")
    if split not in SIZES:
        known = ", ".join(f"demo:similarity/{name}" for name in SIZES)
        raise UserError(f"{source}: no such corpus; expected {known}")
    rng = random.Random(f"{_SEED}/{split}")
    seen: set[tuple[str, str]] = set()
    for number in range(1, SIZES[split] + 1):
        pair = None
        while pair is None or pair in seen or classification.assign_split(" | ".join(pair)) != split:
            pair, label = _write_pair(rng)
        seen.add(pair)
        record = {"text": pair[0], "text_pair": pair[1], "label": label}
        yield f"{source}, row {number}", f"{source}:{number}", record


def _write_pair(rng: random.Random) -> tuple[tuple[str, str], float]:
    """Returns the texts and the label of two new requests."""
    intents = list(classification.REQUESTS)
    first_intent = rng.choice(intents)
    same_subject = [
        intent for intent in intents if _subject(intent) == _subject(first_intent) and intent != first_intent
    ]
    other_subjects = [intent for intent in intents if _subject(intent) != _subject(first_intent)]
    chance = rng.random()
    if chance < _SAME_REQUEST:
        second_intent = first_intent
    elif same_subject and chance > 1 - _SAME_SUBJECT:
        second_intent = rng.choice(same_subject)
    else:
        second_intent = rng.choice(other_subjects)
    first_text, first_values = _write(rng, first_intent, {})
    second_text, second_values = _write(rng, second_intent, first_values)
    base = 3 if second_intent == first_intent else 1 if second_intent in same_subject else 0
    if first_values or second_values:
        common = len(first_values.items() & second_values.items())
        share = common / len(first_values.keys() | second_values.keys())
    else:
        share = float(second_intent == first_intent)
    return (first_text, second_text), round(base + 2 * share, 2)


def _subject(intent: str) -> str:
    return intent.partition("_")[0]


def _write(rng: random.Random, intent: str, usual_values: dict[str, str]) -> tuple[str, dict[str, str]]:
    """Returns a new request: its text and the value of each slot, sometimes the value in `usual_values`."""
    template = classification.choose_alternatives(rng, rng.choice(classification.REQUESTS[intent]))
    values = {}
    for slot in re.findall(r"\{(\w+)\}", template):
        if slot not in usual_values or rng.random() >= _REPEATED:
            values[slot] = rng.choice(classification.WORDS[slot].split(","))
        else:
            values[slot] = usual_values[slot]
    text = template.format(**values)
    return text[0].upper() + text[1:], values
