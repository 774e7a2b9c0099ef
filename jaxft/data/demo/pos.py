"""Generates `demo:pos`: synthetic sentences of a small English grammar, with the part of speech of each word.

Tags are universal parts of speech (Universal Dependencies, universaldependencies.org/u/pos). Many words have several
tags, and only their neighbours decide which: "the report plans a visit", "they visit two light plans". The grammar does
not have "an".
"""

import random
from collections.abc import Iterator

from jaxft.data.demo.classification import assign_split
from jaxft.data.sources.tagged_sentences.sentence import Sentence

SIZES = {"train": 2500, "dev": 400, "test": 400}  # sentences

_SEED = 20261123
_UNSEEN = 5  # train does not use the first of every five words in a list with its tag
# Words that are both nouns and verbs. All take -s, both in the plural and in the third person singular.
_NOUN_VERBS = (
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
_ADJECTIVE_NOUNS = "light local green".split()  # also nouns
_ADVERBS = "slowly often quietly never again early well soon gladly rarely".split()
# Some are also ordinary words.
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
    """Generates the sentences of `split`, a key of `SIZES`, the same on every machine.

    No sentence occurs in two splits.
    """
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
    """Writes random phrases from the words that `split` may use."""

    def __init__(self, rng: random.Random, split: str):
        self.rng = rng

        def known(words: list[str]) -> list[str]:
            return [word for index, word in enumerate(words) if split != "train" or index % _UNSEEN]

        self.nouns = known(_NOUN_VERBS) + known(_NOUNS) + known(_ADJECTIVE_NOUNS)
        self.verbs = known(_NOUN_VERBS) + known(_VERBS)
        self.adjectives, self.adverbs, self.names = known(_ADJECTIVES), known(_ADVERBS), known(_NAMES)

    def closed_class_word(self, tag: str) -> Words:
        """Draws a word of a closed class, such as determiners."""
        return [(self.rng.choice(_CLOSED[tag]), tag)]

    def sentence(self) -> Words:
        """Writes a sentence of one or two clauses."""
        words = self.clause()
        if self.rng.random() < 0.3:
            words = [(self.rng.choice(self.adverbs), "ADV"), (",", "PUNCT"), *words]
        if self.rng.random() < 0.35:
            words += self.closed_class_word(self.rng.choice(("CCONJ", "SCONJ"))) + self.clause()
        first, tag = words[0]
        return [(first[0].upper() + first[1:], tag), *words[1:], (self.rng.choice(".?!"), "PUNCT")]

    def clause(self) -> Words:
        """Writes a subject and a verb phrase that agrees with it."""
        subject, is_plural = self.noun_phrase(is_subject=True)
        return subject + self.verb_phrase(is_plural)

    def noun_phrase(self, *, is_subject: bool, depth: int = 0) -> tuple[Words, bool]:
        """Returns a noun phrase, and True if it is plural."""
        chance, is_plural = self.rng.random(), False
        adjective = [(self.rng.choice(self.adjectives), "ADJ")] if self.rng.random() < 0.4 else []
        noun = self.rng.choice(self.nouns)
        if chance < 0.5:
            words = [*self.closed_class_word("DET"), *adjective, (noun, "NOUN")]
        elif chance < 0.7:
            words, is_plural = [*self.closed_class_word("NUM"), *adjective, (noun + "s", "NOUN")], True
        elif chance < 0.8:
            words, is_plural = [*adjective, (noun + "s", "NOUN")], True
        elif chance < 0.9:
            words = [(self.rng.choice(self.names), "PROPN")]
        else:
            is_plural = self.rng.random() < 0.5
            if is_subject:
                pronouns = "they we you" if is_plural else "he she it"
            else:
                pronouns = "them us" if is_plural else "her it"
            words = [(self.rng.choice(pronouns.split()), "PRON")]
        if depth < 1 and chance < 0.8 and self.rng.random() < 0.25:
            words = (
                words + self.closed_class_word("ADP") + self.noun_phrase(is_subject=False, depth=depth + 1)[0]
            )
        return words, is_plural

    def verb_phrase(self, is_plural: bool) -> Words:
        """Writes a verb that agrees with its subject in number, and its objects."""
        chance, verb = self.rng.random(), self.rng.choice(self.verbs)
        finite = (verb if is_plural else verb + "s", "VERB")
        if chance < 0.5:
            return [finite, *self.noun_phrase(is_subject=False)[0]]
        if chance < 0.6:
            return [finite, (self.rng.choice(self.adverbs), "ADV")]
        if chance < 0.75:
            helper = (self.rng.choice(("will", "can", "may", "must")), "AUX")
            return [helper, (verb, "VERB"), *self.noun_phrase(is_subject=False)[0]]
        if chance < 0.85:
            return [("are" if is_plural else "is", "AUX"), (self.rng.choice(self.adjectives), "ADJ")]
        second = (self.rng.choice(self.verbs), "VERB")
        return [finite, ("to", "PART"), second, *self.noun_phrase(is_subject=False)[0]]
