"""Generates `demo:qa`: synthetic paragraphs about people and firms, and questions about them, some without answer."""

import random
import re
from collections.abc import Iterator
from typing import NamedTuple

from jaxft.data.demo import gazetteers, ner
from jaxft.data.sources.records import Record
from jaxft.errors import UserError

SIZES = {"train": 2400, "dev": 400, "test": 400}  # questions

_SEED = 20241122
_UNANSWERABLE = 0.25  # share of the questions
_LONG = 0.08  # share of the paragraphs that are longer than a window of 128 tokens
_SLOT = re.compile(r"\{(\w+)\}")


class _Relation(NamedTuple):
    """What is told of a subject. Of sentences and questions the last ones stand in dev and test only."""

    sentences: tuple[str, ...]
    questions: dict[str, tuple[str, ...]]  # by the slot that answers them


_PERSON = {
    "birth": _Relation(
        (
            "{subject} was born in {city} in {year}.",
            "Born in {city} in {year}, {subject} grew up with two sisters.",
            "In {year} {subject} came into the world in {city}.",
            "{city} is where {subject} was born in {year}.",
        ),
        {
            "city": (
                "Where was {subject} born?",
                "In which town was {subject} born?",
                "What is {subject}'s birthplace?",
            ),
            "year": (
                "When was {subject} born?",
                "In which year was {subject} born?",
                "What is {subject}'s year of birth?",
            ),
        },
    ),
    "work": _Relation(
        (
            "{subject} works for {company} as head of {subject_matter}.",
            "At {company}, {subject} is in charge of {subject_matter}.",
            "{company} hired {subject} to look after {subject_matter}.",
            "{subject} was put in charge of {subject_matter} at {company}.",
        ),
        {
            "company": (
                "Who does {subject} work for?",
                "Which firm employs {subject}?",
                "Where does {subject} work?",
            ),
            "subject_matter": (
                "What is {subject} in charge of?",
                "What does {subject} look after?",
                "Which field is {subject} responsible for?",
            ),
        },
    ),
    "study": _Relation(
        (
            "{subject} studied at the {school}.",
            "The {school} gave {subject} a degree.",
            "As a student {subject} went to the {school}.",
            "{subject} holds a degree from the {school}.",
        ),
        {
            "school": (
                "Where did {subject} study?",
                "Which school did {subject} go to?",
                "Who gave {subject} a degree?",
            )
        },
    ),
    "home": _Relation(
        (
            "{subject} now lives in {city} with {n9} cats.",
            "The home of {subject} is in {city}.",
            "{subject} has moved to {city}.",
            "These days {subject} can be found in {city}.",
        ),
        {
            "city": (
                "Where does {subject} live?",
                "In which town is {subject} at home?",
                "Where is the home of {subject}?",
            )
        },
    ),
    "club": _Relation(
        (
            "{subject} supports {club} and never misses a match.",
            "On Sundays {subject} plays for {club}.",
            "{club} has no keener member than {subject}.",
            "{subject} wears the colours of {club}.",
        ),
        {
            "club": (
                "Which club is {subject} close to?",
                "What is the club of {subject}?",
                "Which side does {subject} support?",
            )
        },
    ),
}
_FIRM = {
    "founding": _Relation(
        (
            "{subject} was founded by {person} in {year}.",
            "In {year} {person} set up {subject}.",
            "{person} started {subject} in a garage in {year}.",
            "{subject} goes back to {person}, who opened it in {year}.",
        ),
        {
            "person": ("Who founded {subject}?", "Who set up {subject}?", "Who started {subject}?"),
            "year": (
                "When was {subject} founded?",
                "In which year was {subject} set up?",
                "Since when has {subject} existed?",
            ),
        },
    ),
    "seat": _Relation(
        (
            "{subject} has its seat in {city}.",
            "The head office of {subject} is in {city}.",
            "{subject} is run from {city}.",
            "From {city}, {subject} does business with half the world.",
        ),
        {
            "city": (
                "Where is the head office of {subject}?",
                "Where does {subject} have its seat?",
                "Which town is {subject} run from?",
            )
        },
    ),
    "product": _Relation(
        (
            "{subject} makes the {product}.",
            "The {product} is built by {subject}.",
            "{subject} is known for the {product}.",
            "It is {subject} that sells the {product}.",
        ),
        {
            "product": (
                "What does {subject} make?",
                "What is {subject} known for?",
                "What is built by {subject}?",
            )
        },
    ),
    "staff": _Relation(
        (
            "{subject} has {count} workers.",
            "Some {count} people work at {subject}.",
            "{subject} pays the wages of {count} people.",
            "The staff of {subject} has grown to {count}.",
        ),
        {
            "count": (
                "How many people work at {subject}?",
                "How many workers does {subject} have?",
                "How large is the staff of {subject}?",
            )
        },
    ),
}
_FILLERS = (
    "Little else is known.",
    "The rest is a matter of opinion.",
    "A local paper has told the story more than once.",
    "Neighbours speak well of them.",
    "It rained a good deal that year.",
    "Nobody was surprised.",
    "There were doubts at first, but they did not last.",
    "Much has been written about it since then.",
)


def generate_records(source: str) -> Iterator[Record]:
    """Records `{"id", "question", "context", "answers"}` of `demo:qa/SPLIT`, the same on every machine.

    No answer of one split is one of another: names are dealt as in `demo:ner`, and so are years and counts.
    A question without answer asks of a subject of the paragraph what the paragraph tells of another one.
    """
    name, _, split = source.removeprefix("demo:").partition("/")
    if name != "qa" or split not in SIZES:
        known = ", ".join(f"demo:qa/{one}" for one in SIZES)
        raise UserError(f"{source}: no such corpus of questions; expected {known}")
    return _records(split)


def _records(split: str) -> Iterator[Record]:
    writer = _Writer(split)
    count = 0
    while count < SIZES[split]:
        context, asked = writer.paragraph()
        for question, answers in asked[: SIZES[split] - count]:
            count += 1
            origin = f"demo:qa/{split}"
            record = {"id": f"{split}-{count}", "question": question, "context": context, "answers": answers}
            yield f"{origin}, row {count}", f"{origin}:{count}", record


class _Writer:
    """Writes paragraphs from the names of one split."""

    def __init__(self, split: str):
        self.rng = random.Random(f"{_SEED}/{split}")
        self.forms = 3 if split == "train" else 4
        self.asked = 2 if split == "train" else 3
        pools = ner.deal_names()[split]
        self.names = {
            kind: pools[kind] + pools[f"{kind}+"] for kind in ("last", "city", "company", "club", "product")
        }
        self.names["subject_matter"] = pools["subject"]
        self.names["first"] = [name.strip() for name in gazetteers.FIRST.replace("\n", " ").split(",")]
        self.names["year"] = _dealt(map(str, range(1890, 2020)), split)
        self.names["count"] = _dealt(map(str, range(30, 980)), split)
        self.names["n9"] = [str(number) for number in range(2, 10)]

    def name(self, kind: str) -> str:
        if kind == "person":
            return f"{self.name('first')} {self.name('last')}"
        if kind == "school":
            return self.rng.choice(gazetteers.SCHOOL_OF).format(self.name("city"))
        return self.rng.choice(self.names[kind])

    def paragraph(self) -> tuple[str, list[tuple[str, list[dict]]]]:
        """A context, and questions about it with their answers."""
        rng = self.rng
        kind, relations = rng.choice((("person", _PERSON), ("company", _FIRM)))
        long = rng.random() < _LONG
        subjects: list[str] = []
        while len(subjects) < (rng.randint(6, 8) if long else rng.randint(2, 3)):
            name = self.name(kind)
            if not any(set(name.split()) & set(other.split()) for other in subjects):
                subjects.append(name)
        told = {one: rng.sample(sorted(relations), rng.randint(2, len(relations) - 1)) for one in subjects}
        facts = [(one, relation) for one in subjects for relation in told[one]]
        if not long:
            facts = facts[:6]
        if rng.random() < 0.5:
            rng.shuffle(facts)
        context, spans = "", {}  # (subject, relation, slot) -> (start, end)
        for one, relation in facts:
            if rng.random() < 0.2:
                context += rng.choice(_FILLERS) + " "
            context = self.tell(context, one, relation, relations[relation], spans)
        return context.strip(), self.questions(context, relations, facts, spans)

    def tell(self, context: str, subject: str, name: str, relation: _Relation, spans: dict) -> str:
        """The context with one more sentence, whose answers are noted in `spans`."""
        sentence = self.rng.choice(relation.sentences[: self.forms])
        for part in re.split(r"(\{\w+\})", sentence):
            if slot := _SLOT.fullmatch(part):
                text = subject if slot[1] == "subject" else self.name(slot[1])
                if slot[1] in relation.questions:
                    spans[subject, name, slot[1]] = (len(context), len(context) + len(text))
                context += text
            else:
                context += part
        return context + " "

    def questions(self, context: str, relations: dict[str, _Relation], facts: list, spans: dict) -> list:
        """Up to three questions, each of another fact."""
        rng, known = self.rng, set(facts)
        told = {relation for _, relation in facts}
        missing = [
            (one, r)
            for one in dict.fromkeys(one for one, _ in facts)
            for r in sorted(told)
            if (one, r) not in known
        ]
        rng.shuffle(missing)
        out = []
        for subject, name in rng.sample(facts, min(3, len(facts))):
            if missing and rng.random() < _UNANSWERABLE:
                subject, name = missing.pop()
            slot = rng.choice(sorted(relations[name].questions))
            question = rng.choice(relations[name].questions[slot][: self.asked]).format(subject=subject)
            answers = []
            if (subject, name) in known:
                start, end = spans[subject, name, slot]
                answers = [{"text": context[start:end], "answer_start": start}]
            out.append((question, answers))
        return out


def _dealt(values, split: str) -> list[str]:
    """The share of `split`: three in five to train, one each to dev and test."""
    order = list(values)
    random.Random(f"{_SEED}/values").shuffle(order)
    return [one for index, one in enumerate(order) if ner.DEAL[index % len(ner.DEAL)] == split]
