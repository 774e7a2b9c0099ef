"""Generates `demo:pos`, sentences of a small English grammar with the part of speech of each word: synthetic text.

Tags are universal parts of speech (Universal Dependencies, universaldependencies.org/u/pos). Many words have several,
and only their neighbours tell which: "the report plans a visit", "they visit two light plans". It knows no "an".
"""

import random
from collections.abc import Iterator

from jaxft.data.demo.classification import assign_split
from jaxft.data.sources.sentence import Sentence

SIZES = {"train": 2500, "dev": 400, "test": 400}  # sentences

_SEED = 20261123
_UNSEEN = 5  # every so-many-th word of a list is not used for it in train
# Nouns and verbs at once, all with -s for several things and for one that does.
_BOTH = (
    "plan report visit answer work walk play trade paint order cause count plant cook train group drink test dream "
    "cover market record cycle fear hope need help change cost demand"
).split()
_NOUNS = (
    "dog garden town river letter doctor farmer singer window bridge teacher engine island painter village student "
    "song train table mountain"
).split()
_VERBS = "admire ignore follow describe remember prefer build sell bring reveal avoid mention observe praise".split()
_ADJECTIVES = (
    "green old quiet light open clean cool slow warm empty famous strange narrow heavy local modern gentle bright"
).split()
_ADJECTIVE_NOUNS = "light local green".split()  # nouns as well
_ADVERBS = "slowly often quietly never again early well soon gladly rarely".split()
# Some are words as well.
_NAMES = "Anna Oslo Keller Lisbon Maria Turin Baker Ghent Will May Rose Hunter".split()
_CLOSED = {
    "DET": "the a this every some no".split(),
    "ADP": "in near with to before after like behind".split(),
    "NUM": "two three twelve 40 seven".split(),
    "SCONJ": "because before after while that".split(),
    "CCONJ": "and but or".split(),
}

Words = list[tuple[str, str]]  # (word, tag)


def generate_sentences(split: str) -> Iterator[Sentence]:
    """The corpus's sentences of `split` (of `SIZES`), the same on every machine; none stands in two splits."""
    writer = _Writer(random.Random(f"{_SEED}/{split}"), split)
    seen: set[str] = set()
    for number in range(SIZES[split]):
        text = None
        while text is None or text in seen or assign_split(text) != split:
            pairs = writer.sentence()
            text = " ".join(word for word, _ in pairs)
        seen.add(text)
        words, tags = zip(*pairs, strict=True)
        yield Sentence(list(words), list(tags), number, f"demo:pos/{split}:{number + 1}")


class _Writer:
    """Writes phrases by chance, of the words that `split` may use."""

    def __init__(self, rng: random.Random, split: str):
        self.rng = rng

        def known(words: list[str]) -> list[str]:
            return [word for i, word in enumerate(words) if split != "train" or i % _UNSEEN]

        self.nouns = known(_BOTH) + known(_NOUNS) + known(_ADJECTIVE_NOUNS)
        self.verbs = known(_BOTH) + known(_VERBS)
        self.adjectives, self.adverbs, self.names = known(_ADJECTIVES), known(_ADVERBS), known(_NAMES)

    def one(self, tag: str) -> Words:
        """A word of a closed class."""
        return [(self.rng.choice(_CLOSED[tag]), tag)]

    def sentence(self) -> Words:
        words = self.clause()
        if self.rng.random() < 0.3:
            words = [(self.rng.choice(self.adverbs), "ADV"), (",", "PUNCT"), *words]
        if self.rng.random() < 0.35:
            words += self.one(self.rng.choice(("CCONJ", "SCONJ"))) + self.clause()
        first, tag = words[0]
        return [(first[0].upper() + first[1:], tag), *words[1:], (self.rng.choice(".?!"), "PUNCT")]

    def clause(self) -> Words:
        subject, several = self.noun_phrase(subject=True)
        return subject + self.verb_phrase(several)

    def noun_phrase(self, *, subject: bool, depth: int = 0) -> tuple[Words, bool]:
        """Words, and whether they are several, which the verb agrees with."""
        kind, several = self.rng.random(), False
        adjective = [(self.rng.choice(self.adjectives), "ADJ")] if self.rng.random() < 0.4 else []
        noun = self.rng.choice(self.nouns)
        if kind < 0.5:
            words = [*self.one("DET"), *adjective, (noun, "NOUN")]
        elif kind < 0.7:
            words, several = [*self.one("NUM"), *adjective, (noun + "s", "NOUN")], True
        elif kind < 0.8:
            words, several = [*adjective, (noun + "s", "NOUN")], True
        elif kind < 0.9:
            words = [(self.rng.choice(self.names), "PROPN")]
        else:
            several = self.rng.random() < 0.5
            pronouns = (
                (("he", "she", "it"), ("they", "we", "you")) if subject else (("her", "it"), ("them", "us"))
            )
            words = [(self.rng.choice(pronouns[several]), "PRON")]
        if depth < 1 and kind < 0.8 and self.rng.random() < 0.25:
            words = words + self.one("ADP") + self.noun_phrase(subject=False, depth=depth + 1)[0]
        return words, several

    def verb_phrase(self, several: bool) -> Words:
        kind, verb = self.rng.random(), self.rng.choice(self.verbs)
        finite = (verb if several else verb + "s", "VERB")
        if kind < 0.5:
            return [finite, *self.noun_phrase(subject=False)[0]]
        if kind < 0.6:
            return [finite, (self.rng.choice(self.adverbs), "ADV")]
        if kind < 0.75:
            helper = (self.rng.choice(("will", "can", "may", "must")), "AUX")
            return [helper, (verb, "VERB"), *self.noun_phrase(subject=False)[0]]
        if kind < 0.85:
            return [("are" if several else "is", "AUX"), (self.rng.choice(self.adjectives), "ADJ")]
        second = (self.rng.choice(self.verbs), "VERB")
        return [finite, ("to", "PART"), second, *self.noun_phrase(subject=False)[0]]
