"""Generates `demo:ner`, a synthetic newswire corpus with its entities tagged."""

import functools
import random
import re
from collections.abc import Iterator

from jaxft.data.demo import gazetteers as names
from jaxft.data.demo import templates
from jaxft.data.sources.sentence import Sentence
from jaxft.errors import UserError

SIZES = {"train": 4800, "dev": 800, "test": 800}  # sentences, or a few more: documents are whole

_SEED = 20240611
_LONG = 0.01  # share of documents that end with a very long sentence
_RESTYLED = 0.04  # share of sentences in lower case or as a headline
_AMBIGUOUS = 0.3  # share of the plain names that are ambiguous ones
DEAL = ("train", "dev", "train", "test", "train")
_UNSEEN = 0.25  # share of the templates that train does not have

_SLOT = re.compile(r"\{(\w+)\}")
_CHOICE = re.compile(r"\[([^\[\]]*)\]")

Words = list[tuple[str, str]]  # (word, tag)


def generate_sentences(split: str) -> Iterator[Sentence]:
    """The corpus's sentences of `split` ("train", "dev" or "test"), the same on every machine.

    No entity of one split stands in another, whatever its case and type. Documents have 3 to 8 sentences,
    rarely one very long one more. Tags are IOB2 over PER, ORG, LOC and MISC.
    """
    if split not in SIZES:
        raise UserError(f"demo:ner has no split {split!r}; expected one of {', '.join(SIZES)}")
    return _generate(split)


def _generate(split: str) -> Iterator[Sentence]:
    rng = random.Random(f"{_SEED}/{split}")
    pools = deal_names()[split]
    domains = _domains(split)
    subjects = [domain for domain in domains if domain not in ("general", "plain")]
    seen = set()
    count = document = 0
    while count < SIZES[split]:
        writer = _Writer(rng, pools)
        subject = rng.choice(subjects)
        length = rng.randint(3, 8)
        # Each template once a document.
        choices = {domain: rng.sample(domains[domain], length) for domain in (subject, "general", "plain")}
        texts = [choices[rng.choices(list(choices), (55, 22, 23))[0]].pop() for _ in range(length)]
        if rng.random() < 0.3:
            texts[0] = templates.DATELINE
        written = []
        for text in texts:
            pairs = writer.write(text)
            while tuple(pairs) in seen:
                pairs = writer.write(rng.choice(domains[subject]))
            seen.add(tuple(pairs))
            written.append(pairs)
        if rng.random() < _LONG or document in (3, 7):  # so that each split has some
            written.append(writer.write_long())
        for pairs in written:
            words, tags = [word for word, _ in pairs], [tag for _, tag in pairs]
            count += 1
            yield Sentence(words, tags, document, f"demo:ner/{split}:{count}")
        document += 1


@functools.cache
def _domains(split: str) -> dict[str, list[str]]:
    """Templates of each domain; some stand in dev and test only, so that memorized frames do not suffice.

    A template without entities belongs to one split, for else its sentences would be in several.
    """
    rng = random.Random(f"{_SEED}/templates")
    domains = {}
    for domain, text in templates.DOMAINS.items():
        lines = re.sub(r"\n +", " ", text.strip()).splitlines()
        rng.shuffle(lines)
        if domain == "plain":
            domains[domain] = [line for i, line in enumerate(lines) if DEAL[i % len(DEAL)] == split]
        else:
            domains[domain] = lines[round(_UNSEEN * len(lines)) :] if split == "train" else lines
    return domains


@functools.cache
def deal_names() -> dict[str, dict[str, list[str]]]:
    """Deals every name to one split: 60% to train, 20% each to dev and test.

    A name in several lists goes to one split in all of them. Pool `KIND` has the names of one meaning,
    `KIND+` the ambiguous ones.
    """
    kinds = {
        kind: [name.strip() for name in text.replace("\n", " ").split(",")]
        for kind, text in {
            "last": names.LAST,
            "city": names.CITY,
            "place": names.PLACE,
            "district": names.DISTRICT,
            "company": names.COMPANY,
            "club": names.CLUB,
            "subject": names.SUBJECT,
            "party": names.PARTY,
            "paper": names.PAPER,
            "event": names.EVENT,
            "head": names.WORK_HEAD,
            "product": names.PRODUCT,
        }.items()
    }
    pairs = [pair.split() for pair in names.COUNTRY.replace("\n", " ").split(",")]
    adjectives = dict(pairs)
    kinds["country"] = list(adjectives)
    kinds["acronym"] = _acronyms()

    uses = {}
    for kind, members in kinds.items():
        for name in members:
            uses.setdefault(name.lower(), set()).add(kind)
    first = {name.strip().lower() for name in names.FIRST.replace("\n", " ").split(",")}
    for name in uses:
        if name in first:
            uses[name].add("first")

    rng = random.Random(f"{_SEED}/names")
    split_of = {}
    for ambiguous in (False, True):
        # Dealt kind by kind, so that each split gets its share of each.
        for kind in kinds:
            dealt = [
                n for n in uses if kind in uses[n] and (len(uses[n]) > 1) == ambiguous and n not in split_of
            ]
            rng.shuffle(dealt)
            for index, name in enumerate(dealt):
                split_of[name] = DEAL[index % len(DEAL)]

    pools = {split: {} for split in SIZES}
    for kind, members in kinds.items():
        for split, pool in pools.items():
            mine = [name for name in members if split_of[name.lower()] == split]
            pool[kind] = [name for name in mine if len(uses[name.lower()]) == 1]
            pool[kind + "+"] = [name for name in mine if len(uses[name.lower()]) > 1]
            if kind == "country":
                pool["demonym"] = [adjectives[name] for name in mine]
    return pools


def _acronyms() -> list[str]:
    rng = random.Random(f"{_SEED}/acronyms")
    found = {}
    while len(found) < 80:
        found["".join(rng.choice("ABCDEFGHILMNOPRSTUW") for _ in range(rng.choice((3, 4, 4, 5))))] = None
    return list(found)


class _Writer:
    """Fills templates for one document, with a cast of people and backbones that come back in it."""

    def __init__(self, rng: random.Random, pools: dict[str, list[str]]):
        self.rng = rng
        self.pools = pools
        self.firsts = [name.strip() for name in names.FIRST.replace("\n", " ").split(",")]
        self.cast: dict[str, list[str]] = {}

    def write(self, template: str) -> Words:
        """One sentence, now and then in another style."""
        words = self.expand(template)
        if self.rng.random() < _RESTYLED:
            style = self.rng.choice((str.lower, str.lower, str.upper, _capitalized))
            return [(style(word), tag) for word, tag in words]
        first, tag = words[0]
        return [(_capitalized(first) if tag == "O" else first, tag), *words[1:]]

    def write_long(self) -> Words:
        """A list of well over 128 subwords, as in tables of results and lists of names."""
        head, item, tail = self.rng.choice(templates.LONG)
        words = self.write(head)
        separator = self.rng.choice((",", ";"))
        for _ in range(self.rng.randint(26, 60)):
            words += [*self.expand(item), (separator, "O")]
        return words[:-1] + self.expand(tail)

    def expand(self, template: str) -> Words:
        """Takes the choices of a template and fills its slots."""
        template = _CHOICE.sub(lambda match: self.rng.choice(match[1].split("|")), template)
        words = []
        for item in template.split():
            slot = _SLOT.fullmatch(item)
            name, kind = self.fill(slot[1]) if slot else (None, None)
            if kind:
                words += [(word, ("I-" if i else "B-") + kind) for i, word in enumerate(name.split())]
            else:
                # Numbers may be part of a word, as in a score.
                words.append((name or _SLOT.sub(lambda match: self.fill(match[1])[0], item), "O"))
        return words

    def fill(self, slot: str) -> tuple[str, str | None]:
        """Text for a slot and its entity type, None for an ordinary phrase."""
        rng = self.rng
        if slot in templates.PHRASES:
            return rng.choice(templates.PHRASES[slot]), None
        if slot in templates.NUMBERS:
            low, high, form = templates.NUMBERS[slot]
            return form.format(rng.randint(low, high)), None
        if slot == "any":  # a context that tells nothing: only what the name is called elsewhere does
            slot, name = rng.choice(
                [(kind, self.plain(kind)) for kind in ("last", "company", "country", "city", "club")]
            )
            return name, _TYPES[slot]
        return self.recurring(slot), _TYPES[slot]

    def recurring(self, slot: str) -> str:
        """A name of the cast, or a new one, which joins it."""
        cast = self.cast.setdefault(slot, [])
        if slot == "last" and cast and self.rng.random() < 0.7:
            return self.rng.choice(cast)
        # Two of a kind in one sentence should mostly differ, so the newest name does not come back.
        if len(cast) > 2 and self.rng.random() < 0.4:
            return self.rng.choice(cast[:-1])
        if slot == "person":
            surname = self.one("last")
            self.cast.setdefault("last", []).append(surname)
            form = self.rng.choice(
                ("{} {}", "{} {}", "{} {}", "{} {}", "{} J. {}", "{} M. {}", "{0[0]}. {1}")
            )
            name = form.format(self.rng.choice(self.firsts), surname)
        else:
            name = self.new(slot)
        cast.append(name)
        return name

    def plain(self, kind: str) -> str:
        return self.rng.choice(self.pools[kind])

    def one(self, kind: str) -> str:
        ambiguous = self.pools.get(kind + "+")
        if ambiguous and (not self.pools[kind] or self.rng.random() < _AMBIGUOUS):
            return self.rng.choice(ambiguous)
        return self.plain(kind)

    def new(self, slot: str) -> str:
        """A name for a slot other than `person`, made of this split's names."""
        rng = self.rng
        pick = rng.random()
        if slot == "city" and pick < 0.1:
            return self.one("district")
        if slot == "place" and pick < 0.35:
            return rng.choice(names.FAMILY_PLACE).format(self.one("last"))
        if slot == "company" and pick < 0.25:
            return rng.choice(names.FAMILY_FIRM).format(self.one("last"), self.one("last"))
        if slot == "company" and pick < 0.4:
            return self.one("company") + rng.choice((" Corp", " Ltd", " AG", " Group", " Inc", " SA"))
        if slot == "club" and pick < 0.45:
            return rng.choice(names.CLUB_OF).format(self.one("city"))
        if slot == "backbone":
            if pick < 0.3:
                return rng.choice(names.OFFICE_OF).format(self.one("city"))
            if pick < 0.45:
                return rng.choice(names.STATE_OF).format(self.one("country"))
            if pick < 0.7:
                return rng.choice(names.SUBJECT_OF).format(self.one("subject"))
            return self.one("acronym") if pick < 0.85 else self.one("party")
        if slot == "school":
            return rng.choice(names.SCHOOL_OF).format(self.one("city"))
        if slot == "event":
            if pick < 0.2:
                return rng.choice(names.TOWN_MISC).format(self.one("city"))
            if pick < 0.3:
                return rng.choice(names.STATE_MISC).format(self.one("country"))
            if pick < 0.4:
                return rng.choice(names.FAMILY_MISC).format(self.one("last"))
        if slot == "work":
            return rng.choice(names.WORK).format(
                self.one("head"),
                adj=rng.choice(names.WORK_ADJECTIVE),
                city=self.one("city"),
                last=self.one("last"),
                first=rng.choice(self.firsts),
            )
        if slot == "product" and pick < 0.7:
            return f"{self.one('product')} {rng.choice(('X2', '400', 'III', 'S', '7', 'Pro', '50', 'GT'))}"
        return self.one(slot)


_TYPES = {
    **dict.fromkeys(("person", "last"), "PER"),
    **dict.fromkeys(("company", "club", "backbone", "school", "party", "paper", "acronym"), "ORG"),
    **dict.fromkeys(("city", "country", "place", "district"), "LOC"),
    **dict.fromkeys(("demonym", "event", "work", "product"), "MISC"),
}


def _capitalized(word: str) -> str:
    return word[:1].upper() + word[1:]
