"""Generates `demo:ner`, a synthetic newswire corpus with tagged entities."""

import functools
import random
import re
from collections.abc import Iterator

from jaxft.data.demo import gazetteers, ner_templates
from jaxft.data.demo.name_pools import SEED, deal_names, deal_split
from jaxft.data.sources.tagged_sentences.sentence import Sentence
from jaxft.errors import UserError

SIZES = {
    "train": 4800,
    "dev": 800,
    "test": 800,
}  # sentences; a split may have a few more to finish a document

_LONG = 0.01  # share of documents that end with a very long sentence
_RESTYLED = 0.04  # share of sentences in lower case or as a headline
_AMBIGUOUS = 0.3  # share of drawn names that are ambiguous
_UNSEEN = 0.25  # share of templates that train does not have

_SLOT = re.compile(r"\{(\w+)\}")
_CHOICE = re.compile(r"\[([^\[\]]*)\]")

Words = list[tuple[str, str]]  # (word, tag)


def generate_sentences(split: str) -> Iterator[Sentence]:
    """Generates the sentences of `split` ("train", "dev" or "test"), the same on every machine.

    No entity of one split occurs in another, regardless of case and type. Documents have 3 to 8 sentences, and a few
    end with a very long sentence. Tags are IOB2 with the types PER, ORG, LOC and MISC.

    Raises `UserError` for another split.
    """
    if split not in SIZES:
        raise UserError(f"demo:ner has no split {split!r}; expected one of {', '.join(SIZES)}")
    return _generate(split)


def _generate(split: str) -> Iterator[Sentence]:
    rng = random.Random(f"{SEED}/{split}")
    pools = deal_names()[split]
    domains = _select_templates(split)
    subjects = [domain for domain in domains if domain not in ("general", "plain")]
    seen = set()
    count = document = 0
    while count < SIZES[split]:
        writer = _Writer(rng, pools)
        subject = rng.choice(subjects)
        length = rng.randint(3, 8)
        # A document uses each template at most once.
        choices = {domain: rng.sample(domains[domain], length) for domain in (subject, "general", "plain")}
        texts = [choices[rng.choices(list(choices), (55, 22, 23))[0]].pop() for _ in range(length)]
        if rng.random() < 0.3:
            texts[0] = ner_templates.DATELINE
        written = []
        for text in texts:
            pairs = writer.write(text)
            while tuple(pairs) in seen:
                pairs = writer.write(rng.choice(domains[subject]))
            seen.add(tuple(pairs))
            written.append(pairs)
        if rng.random() < _LONG or document in (3, 7):  # 3 and 7, so that each split has at least two
            written.append(writer.write_long())
        for pairs in written:
            words, tags = [word for word, _ in pairs], [tag for _, tag in pairs]
            count += 1
            yield Sentence(words, tags, document, f"demo:ner/{split}:{count}")
        document += 1


@functools.cache
def _select_templates(split: str) -> dict[str, list[str]]:
    """Selects the templates of a split, by domain.

    Some templates occur in dev and test only, so that memorized templates do not suffice. A template without entities
    belongs to one split, because otherwise its sentences would occur in several.
    """
    rng = random.Random(f"{SEED}/templates")
    domains = {}
    for domain, text in ner_templates.DOMAINS.items():
        lines = re.sub(r"\n +", " ", text.strip()).splitlines()
        rng.shuffle(lines)
        if domain == "plain":
            domains[domain] = [line for index, line in enumerate(lines) if deal_split(index) == split]
        else:
            domains[domain] = lines[round(_UNSEEN * len(lines)) :] if split == "train" else lines
    return domains


class _Writer:
    """Writes one document: fills templates with a cast of people and agencies that recur in it."""

    def __init__(self, rng: random.Random, pools: dict[str, list[str]]):
        self.rng = rng
        self.pools = pools
        self.first_names = gazetteers.split_names(gazetteers.FIRST)
        self.cast: dict[str, list[str]] = {}  # names by slot

    def write(self, template: str) -> Words:
        """Writes a sentence, sometimes in lower case or as a headline."""
        words = self.expand(template)
        if self.rng.random() < _RESTYLED:
            style = self.rng.choice((str.lower, str.lower, str.upper, _capitalized))
            return [(style(word), tag) for word, tag in words]
        first, tag = words[0]
        return [(_capitalized(first) if tag == "O" else first, tag), *words[1:]]

    def write_long(self) -> Words:
        """Writes a sentence of well over 128 subwords, such as a list of results or of names."""
        head, item, tail = self.rng.choice(ner_templates.LONG)
        words = self.write(head)
        separator = self.rng.choice((",", ";"))
        for _ in range(self.rng.randint(26, 60)):
            words += [*self.expand(item), (separator, "O")]
        return words[:-1] + self.expand(tail)

    def expand(self, template: str) -> Words:
        """Chooses one alternative of each choice in a template, and fills its slots."""
        template = _CHOICE.sub(lambda match: self.rng.choice(match[1].split("|")), template)
        words = []
        for item in template.split():
            slot = _SLOT.fullmatch(item)
            name, kind = self.fill(slot[1]) if slot else ("", None)
            if kind:
                words += [(word, ("I-" if i else "B-") + kind) for i, word in enumerate(name.split())]
            else:
                # A number may be inside a word, for example in a score.
                words.append((name or _SLOT.sub(lambda match: self.fill(match[1])[0], item), "O"))
        return words

    def fill(self, slot: str) -> tuple[str, str | None]:
        """Returns the text for a slot, and its entity type or None for an ordinary phrase."""
        rng = self.rng
        if slot in ner_templates.PHRASES:
            return rng.choice(ner_templates.PHRASES[slot]), None
        if slot in ner_templates.NUMBERS:
            low, high, form = ner_templates.NUMBERS[slot]
            return form.format(rng.randint(low, high)), None
        if slot == "any":  # the context does not reveal the type; only other uses of the name do
            slot, name = rng.choice(
                [(kind, self.draw_plain(kind)) for kind in ("last", "company", "country", "city", "club")]
            )
            return name, _TYPES[slot]
        return self.draw_recurring(slot), _TYPES[slot]

    def draw_recurring(self, slot: str) -> str:
        """Draws a name of the cast, or makes a new one and adds it to the cast."""
        cast = self.cast.setdefault(slot, [])
        if slot == "last" and cast and self.rng.random() < 0.7:
            return self.rng.choice(cast)
        # Two names of a kind in one sentence should mostly differ, so the newest name is not drawn.
        if len(cast) > 2 and self.rng.random() < 0.4:
            return self.rng.choice(cast[:-1])
        if slot == "person":
            surname = self.draw("last")
            self.cast.setdefault("last", []).append(surname)
            form = self.rng.choice(
                ("{} {}", "{} {}", "{} {}", "{} {}", "{} J. {}", "{} M. {}", "{0[0]}. {1}")
            )
            name = form.format(self.rng.choice(self.first_names), surname)
        else:
            name = self.make_name(slot)
        cast.append(name)
        return name

    def draw_plain(self, kind: str) -> str:
        """Draws a name of a kind that has no other meaning."""
        return self.rng.choice(self.pools[kind])

    def draw(self, kind: str) -> str:
        """Draws a name of a kind, sometimes an ambiguous one."""
        ambiguous = self.pools.get(kind + "+")
        if ambiguous and (not self.pools[kind] or self.rng.random() < _AMBIGUOUS):
            return self.rng.choice(ambiguous)
        return self.draw_plain(kind)

    def make_name(self, slot: str) -> str:
        """Makes a name for a slot other than `person` from this split's names."""
        rng = self.rng
        chance = rng.random()
        if slot == "city" and chance < 0.1:
            return self.draw("district")
        if slot == "place" and chance < 0.35:
            return rng.choice(gazetteers.FAMILY_PLACE).format(self.draw("last"))
        if slot == "company" and chance < 0.25:
            return rng.choice(gazetteers.FAMILY_FIRM).format(self.draw("last"), self.draw("last"))
        if slot == "company" and chance < 0.4:
            return self.draw("company") + rng.choice((" Corp", " Ltd", " AG", " Group", " Inc", " SA"))
        if slot == "club" and chance < 0.45:
            return rng.choice(gazetteers.CLUB_OF).format(self.draw("city"))
        if slot == "agency":
            if chance < 0.3:
                return rng.choice(gazetteers.OFFICE_OF).format(self.draw("city"))
            if chance < 0.45:
                return rng.choice(gazetteers.STATE_OF).format(self.draw("country"))
            if chance < 0.7:
                return rng.choice(gazetteers.SUBJECT_OF).format(self.draw("subject"))
            return self.draw("acronym") if chance < 0.85 else self.draw("party")
        if slot == "school":
            return rng.choice(gazetteers.SCHOOL_OF).format(self.draw("city"))
        if slot == "event":
            if chance < 0.2:
                return rng.choice(gazetteers.TOWN_MISC).format(self.draw("city"))
            if chance < 0.3:
                return rng.choice(gazetteers.STATE_MISC).format(self.draw("country"))
            if chance < 0.4:
                return rng.choice(gazetteers.FAMILY_MISC).format(self.draw("last"))
        if slot == "work":
            return rng.choice(gazetteers.WORK).format(
                self.draw("head"),
                adj=rng.choice(gazetteers.WORK_ADJECTIVE),
                city=self.draw("city"),
                last=self.draw("last"),
                first=rng.choice(self.first_names),
            )
        if slot == "product" and chance < 0.7:
            return f"{self.draw('product')} {rng.choice(('X2', '400', 'III', 'S', '7', 'Pro', '50', 'GT'))}"
        return self.draw(slot)


# Slot -> its entity type.
_TYPES = {
    **dict.fromkeys(("person", "last"), "PER"),
    **dict.fromkeys(("company", "club", "agency", "school", "party", "paper", "acronym"), "ORG"),
    **dict.fromkeys(("city", "country", "place", "district"), "LOC"),
    **dict.fromkeys(("demonym", "event", "work", "product"), "MISC"),
}


def _capitalized(word: str) -> str:
    return word[:1].upper() + word[1:]
