"""Generates text for language models: `demo:text` (short news items) and `demo:headline` (items with headlines)."""

import hashlib
import itertools
import random
import re
from collections.abc import Iterable, Iterator

from jaxft.data.demo import ner
from jaxft.errors import UserError

HEADLINES = {"train": 3000, "dev": 200, "test": 200}  # items

_SEED = 20240702

_FIRMS = (
    "Arden,Belmont,Corvus,Delphi,Elbrus,Fairlane,Granite,Halcyon,Ibis,Juniper,Kestrel,Lumen,Meridian,Nimbus"
)
_CITIES = "Oslo,Lisbon,Prague,Dublin,Vienna,Athens,Warsaw,Bergen,Turin,Malmo,Graz,Ghent,Porto,Basel"
_PEOPLE = "Adams,Brandt,Costa,Duval,Eriksen,Fischer,Garcia,Holm,Ivanov,Jansen,Keller,Larsen,Moretti,Novak"
_GOODS = "tractors,ferries,cameras,bicycles,turbines,pianos,lamps,engines,carpets,batteries"
_SLOTS = {
    "firm": _FIRMS.split(","),
    "other": _FIRMS.split(","),
    "city": _CITIES.split(","),
    "person": _PEOPLE.split(","),
    "goods": _GOODS.split(","),
    "number": [str(n) for n in (20, 40, 60, 80, 100, 150, 200, 300, 500, 700)],
}

# An event has a headline and sentences; the first sentence says the same as the headline.
_EVENTS = (
    (
        "{firm} to buy {other}",
        "{firm} has agreed to take over its rival {other}, both firms said in {city}.",
        "{person}, who leads {firm}, said the price was {number} million.",
    ),
    (
        "{firm} cuts {number} jobs in {city}",
        "The maker of {goods} {firm} will close its plant in {city}, where {number} people work.",
        "{person}, a spokesman for the workers, said nobody had warned them.",
    ),
    (
        "{person} named head of {firm}",
        "{firm} has chosen {person} to lead the company, its board said in {city}.",
        "The firm, which makes {goods}, had looked for a new head for {number} days.",
    ),
    (
        "Fire destroys store of {goods} in {city}",
        "A store full of {goods} burned down in {city} during the night.",
        "{number} people had to leave their homes, said {person} of the fire brigade.",
    ),
    (
        "{city} bans {firm} {goods}",
        "The council of {city} no longer allows {goods} made by {firm} in its streets.",
        "{person}, who had asked for it, said that {number} people had complained.",
    ),
    (
        "Strike at {firm} ends after {number} days",
        "Workers at the {city} plant of {firm} went back to work after {number} days of strike.",
        "The plant makes {goods}; {person} spoke for both sides.",
    ),
    (
        "{person} leaves {firm} for {other}",
        "{person} goes to {other} after {number} months as head of {firm}.",
        "Both firms make {goods} and have their seats in {city}.",
    ),
    (
        "{city} orders {number} {goods} from {firm}",
        "{firm} will deliver {number} {goods} to the city of {city}.",
        "{person} signed the contract; {other} had made an offer as well.",
    ),
)
_FILLERS = (
    "No further details were given.",
    "The news came on a quiet day.",
    "Observers had expected it for weeks.",
    "A statement is to follow tomorrow.",
    "It was not the first report of this kind.",
)


def generate_documents(split: str) -> Iterator[str]:
    """Generates the documents of `split` of `demo:ner` as running text."""
    for _, sentences in itertools.groupby(ner.generate_sentences(split), key=lambda s: s.document):
        yield " ".join(_join_words(sentence.words) for sentence in sentences)


def _join_words(words: Iterable[str]) -> str:
    """Joins words into text, without spaces before or after punctuation that takes none."""
    text = " ".join(words)
    text = re.sub(r" ([.,;:!?)\]%]|'s\b|n't\b)", r"\1", text)
    return re.sub(r"([(\[$]) ", r"\1", text)


def generate_headlines(split: str) -> Iterator[dict[str, str]]:
    """Generates the items `{"article", "headline"}` of `split`. No headline occurs in two splits.

    Raises `UserError` for another split.
    """
    if split not in HEADLINES:
        raise UserError(f"demo:headline has no split {split!r}; expected one of {', '.join(HEADLINES)}")
    rng = random.Random(f"{_SEED}/{split}")
    count = 0
    while count < HEADLINES[split]:
        headline_template, *sentence_templates = rng.choice(_EVENTS)
        facts = {slot: rng.choice(values) for slot, values in _SLOTS.items()}
        headline = headline_template.format(**facts)
        if facts["firm"] == facts["other"] or _assign_split(headline) != split:
            continue
        sentences = [template.format(**facts) for template in sentence_templates]
        sentences += rng.sample(_FILLERS, rng.randint(0, 2))
        count += 1
        yield {"article": " ".join(sentences), "headline": headline}


def _assign_split(headline: str) -> str:
    share = hashlib.sha256(headline.encode()).digest()[0] / 256
    return "train" if share < 0.8 else "dev" if share < 0.9 else "test"
