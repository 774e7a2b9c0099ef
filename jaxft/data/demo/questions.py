"""Generates `demo:qa`: synthetic paragraphs about people and firms, and questions about them, some unanswerable."""

import random
import re
from collections.abc import Iterable, Iterator

from jaxft.data.demo import gazetteers
from jaxft.data.demo.name_pools import deal_names, deal_split
from jaxft.data.demo.question_templates import FILLERS, FIRM, PERSON, Relation
from jaxft.data.sources.records.record_values import JsonObject, Record
from jaxft.errors import UserError

SIZES = {"train": 2400, "dev": 400, "test": 400}  # questions

_SEED = 20241122
_UNANSWERABLE = 0.25  # share of the questions
_LONG = 0.08  # share of paragraphs that are longer than a window of 128 tokens
_SLOT = re.compile(r"\{(\w+)\}")

_Fact = tuple[str, str]  # subject, name of the relation


def generate_records(source: str) -> Iterator[Record]:
    """Generates the records `{"id", "question", "context", "answers"}` of `demo:qa/SPLIT`, the same on every machine.

    No answer occurs in two splits, because names, years and counts are split as the names of `demo:ner` are. An
    unanswerable question asks for a fact about one subject that the paragraph states only about another.

    Raises `UserError` for another corpus or split.
    """
    name, _, split = source.removeprefix("demo:").partition("/")
    if name != "qa" or split not in SIZES:
        known = ", ".join(f"demo:qa/{known_split}" for known_split in SIZES)
        raise UserError(f"{source}: no such corpus of questions; expected {known}")
    return _generate(split)


def _generate(split: str) -> Iterator[Record]:
    writer = _Writer(split)
    count = 0
    while count < SIZES[split]:
        context, questions = writer.write_paragraph()
        for question, answers in questions[: SIZES[split] - count]:
            count += 1
            origin = f"demo:qa/{split}"
            record = {"id": f"{split}-{count}", "question": question, "context": context, "answers": answers}
            yield f"{origin}, row {count}", f"{origin}:{count}", record


class _Writer:
    """Writes paragraphs with the names of one split."""

    def __init__(self, split: str):
        self.rng = random.Random(f"{_SEED}/{split}")
        self.sentence_count = (
            3 if split == "train" else 4
        )  # sentence templates of a relation that the split uses
        self.question_count = 2 if split == "train" else 3  # question templates of a slot that the split uses
        pools = deal_names()[split]
        self.names = {
            kind: pools[kind] + pools[f"{kind}+"] for kind in ("last", "city", "company", "club", "product")
        }
        self.names["subject_matter"] = pools["subject"]
        self.names["first"] = gazetteers.split_names(gazetteers.FIRST)
        self.names["year"] = _deal_values(map(str, range(1890, 2020)), split)
        self.names["count"] = _deal_values(map(str, range(30, 980)), split)
        self.names["n9"] = [str(number) for number in range(2, 10)]

    def draw_name(self, kind: str) -> str:
        """Draws a name of a kind."""
        if kind == "person":
            return f"{self.draw_name('first')} {self.draw_name('last')}"
        if kind == "school":
            return self.rng.choice(gazetteers.SCHOOL_OF).format(self.draw_name("city"))
        return self.rng.choice(self.names[kind])

    def write_paragraph(self) -> tuple[str, list[tuple[str, list[JsonObject]]]]:
        """Returns a context, and questions about it with their answers."""
        rng = self.rng
        kind, relations = rng.choice((("person", PERSON), ("company", FIRM)))
        is_long = rng.random() < _LONG
        subjects: list[str] = []
        while len(subjects) < (rng.randint(6, 8) if is_long else rng.randint(2, 3)):
            name = self.draw_name(kind)
            if not any(set(name.split()) & set(subject.split()) for subject in subjects):
                subjects.append(name)
        relations_of = {
            subject: rng.sample(sorted(relations), rng.randint(2, len(relations) - 1)) for subject in subjects
        }
        facts = [(subject, relation) for subject in subjects for relation in relations_of[subject]]
        if not is_long:
            facts = facts[:6]
        if rng.random() < 0.5:
            rng.shuffle(facts)
        context = ""
        spans: dict[tuple[str, str, str], tuple[int, int]] = {}
        for fact in facts:
            if rng.random() < 0.2:
                context += rng.choice(FILLERS) + " "
            context = self.add_sentence(context, fact, relations, spans)
        return context.strip(), self.write_questions(context, relations, facts, spans)

    def add_sentence(
        self,
        context: str,
        fact: _Fact,
        relations: dict[str, Relation],
        spans: dict[tuple[str, str, str], tuple[int, int]],
    ) -> str:
        """Returns the context with one more sentence, which states a fact.

        It stores the start and end of the sentence's answers in `spans`, under (subject, relation, slot).
        """
        subject, name = fact
        relation = relations[name]
        sentence = self.rng.choice(relation.sentences[: self.sentence_count])
        for piece in re.split(r"(\{\w+\})", sentence):
            if slot := _SLOT.fullmatch(piece):
                text = subject if slot[1] == "subject" else self.draw_name(slot[1])
                if slot[1] in relation.questions:
                    spans[subject, name, slot[1]] = (len(context), len(context) + len(text))
                context += text
            else:
                context += piece
        return context + " "

    def write_questions(
        self,
        context: str,
        relations: dict[str, Relation],
        facts: list[_Fact],
        spans: dict[tuple[str, str, str], tuple[int, int]],
    ) -> list[tuple[str, list[JsonObject]]]:
        """Returns up to three questions with their answers, each about a different fact."""
        rng, known_facts = self.rng, set(facts)
        known_relations = sorted({relation for _, relation in facts})
        missing = [
            (subject, relation)
            for subject in dict.fromkeys(subject for subject, _ in facts)
            for relation in known_relations
            if (subject, relation) not in known_facts
        ]
        rng.shuffle(missing)
        questions = []
        for fact in rng.sample(facts, min(3, len(facts))):
            if missing and rng.random() < _UNANSWERABLE:
                fact = missing.pop()
            subject, name = fact
            slot = rng.choice(sorted(relations[name].questions))
            templates = relations[name].questions[slot][: self.question_count]
            question = rng.choice(templates).format(subject=subject)
            answers = []
            if fact in known_facts:
                start, end = spans[subject, name, slot]
                answers = [{"text": context[start:end], "answer_start": start}]
            questions.append((question, answers))
        return questions


def _deal_values(values: Iterable[str], split: str) -> list[str]:
    """Returns the values that belong to a split; see `name_pools.deal_split`."""
    order = list(values)
    random.Random(f"{_SEED}/values").shuffle(order)
    return [value for index, value in enumerate(order) if deal_split(index) == split]
