"""Generates `demo:similarity`, pairs of requests to a bank with a number for how alike they are: synthetic texts."""

import random
import re
from collections.abc import Iterator

from jaxft.data.demo import classification
from jaxft.data.sources.records import Record
from jaxft.errors import UserError

SIZES = {"train": 2500, "dev": 400, "test": 400}  # pairs

_SEED = 20261124
# Shares of the pairs; the second only where a subject has several requests.
_SAME_REQUEST, _SAME_SUBJECT = 0.45, 0.25
_REPEATED = 0.5  # the chance that the second names what the first has named


def generate_records(source: str) -> Iterator[Record]:
    """Records `{"text", "text_pair", "label"}` of `demo:similarity/SPLIT`; no pair stands in two splits.

    label: 3 for the same request in any words, 1 for another on the same subject (card, transfer, ...), and up to 2
    more by the share of named amounts, places, persons and times that both have (2 where the same request names
    none); so from 0 to 5.
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
            *pair, label = _pair(rng)
            pair = tuple(pair)
        seen.add(pair)
        record = {"text": pair[0], "text_pair": pair[1], "label": label}
        yield f"{source}, row {number}", f"{source}:{number}", record


def _pair(rng: random.Random) -> tuple[str, str, float]:
    intents = list(classification.REQUESTS)
    one = rng.choice(intents)
    kin = [intent for intent in intents if _subject(intent) == _subject(one) and intent != one]
    others = [intent for intent in intents if _subject(intent) != _subject(one)]
    drawn = rng.random()
    other = one if drawn < _SAME_REQUEST else rng.choice(kin if kin and drawn > 1 - _SAME_SUBJECT else others)
    first, named = _write(rng, one, {})
    second, again = _write(rng, other, named)
    common = len(named.items() & again.items())
    base = 3 if other == one else 1 if other in kin else 0
    share = common / len(named.keys() | again.keys()) if named or again else float(other == one)
    return first, second, round(base + 2 * share, 2)


def _subject(intent: str) -> str:
    return intent.partition("_")[0]


def _write(rng: random.Random, intent: str, named: dict[str, str]) -> tuple[str, dict[str, str]]:
    """A request and what it names by slot, now and then as in `named`."""
    template = classification.choose_alternatives(rng, rng.choice(classification.REQUESTS[intent]))
    own = {}
    for slot in re.findall(r"\{(\w+)\}", template):
        if slot not in named or rng.random() >= _REPEATED:
            own[slot] = rng.choice(classification.WORDS[slot].split(","))
        else:
            own[slot] = named[slot]
    text = template.format(**own)
    return text[0].upper() + text[1:], own
