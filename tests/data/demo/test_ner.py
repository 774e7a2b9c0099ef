"""Tests of the synthetic corpus: what the README and the recipes promise of it."""

import collections
import hashlib
import itertools
import re

import numpy as np
import pytest

from jaxft.data.demo import ner, pos
from jaxft.data.sources import tag_schemes
from jaxft.data.sources.dev_split import find_sentence_overlap
from jaxft.data.sources.sentences import read_sentences
from jaxft.errors import UserError


@pytest.fixture(scope="module")
def corpus():
    return {split: list(ner.generate_sentences(split)) for split in ner.SIZES}


@pytest.fixture(scope="module")
def entities(corpus):
    """Types of each entity string in lower case, by split."""
    found = {split: collections.defaultdict(collections.Counter) for split in corpus}
    for split, sentences in corpus.items():
        for sentence in sentences:
            for kind, first, last in tag_schemes.extract_entities(sentence.tags):
                found[split][" ".join(sentence.words[first:last]).lower()][kind] += 1
    return found


def test_same_on_every_machine(corpus):
    text = repr([(s.words, s.tags, s.document) for split in corpus.values() for s in split])
    # A change of the corpus changes every score measured on it: then measure them again.
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "e06e71f054a3358c"


def test_sizes_documents_and_tags(corpus):
    assert len(corpus["train"]) >= 4000 and len(corpus["dev"]) >= 800 and len(corpus["test"]) >= 800
    for sentences in corpus.values():
        sizes = collections.Counter(s.document for s in sentences)
        assert set(sizes) == set(range(len(sizes))) and set(sizes.values()) <= set(range(3, 10))
        for sentence in sentences:
            assert tag_schemes.convert_tags_to_iob2(sentence.tags, "iob2") == (sentence.tags, [])
            assert not any(set(word) & set("{}[]| ") or not word for word in sentence.words)
        without = sum(set(s.tags) == {"O"} for s in sentences) / len(sentences)
        assert 0.05 < without < 0.4
        # Each word has a subword or more, so these have more than 128 subwords.
        assert sum(len(s.words) > 128 for s in sentences) >= 3
        assert 0.005 < sum(s.words == [w.lower() for w in s.words] for s in sentences) / len(sentences) < 0.1


def test_no_entity_or_sentence_of_one_split_stands_in_another(corpus, entities):
    for one, other in itertools.combinations(corpus, 2):
        assert not entities[one].keys() & entities[other].keys()
        assert find_sentence_overlap(corpus[one], corpus[other]).sum() == 0


def test_names_are_many_and_ambiguous(entities):
    for split, found in entities.items():
        kinds = sum(found.values(), collections.Counter())
        assert set(kinds) == {"PER", "ORG", "LOC", "MISC"}
        assert min(kinds.values()) > 0.05 * kinds.total()
        assert len(found) > (2000 if split == "train" else 400)
        assert sum(len(types) > 1 for types in found.values()) >= 10
        assert sum(" " in name for name in found) > 0.3 * len(found)
    assert sum(len(types) > 2 for types in entities["train"].values()) >= 5


def test_templates_are_many_and_dev_has_some_that_train_has_not(corpus):
    frames = {
        split: {
            re.sub(
                r"\d+",
                "0",
                " ".join(w.lower() if t == "O" else t for w, t in zip(s.words, s.tags, strict=True)),
            )
            for s in sentences
        }
        for split, sentences in corpus.items()
    }
    assert len(frames["dev"] - frames["train"]) > 50
    assert sum(len(lines) for lines in ner._domains("dev").values()) >= 60


def test_unknown_split():
    with pytest.raises(UserError, match="no split 'valid'; expected one of train, dev, test"):
        ner.generate_sentences("valid")
    assert (
        next(read_sentences("demo:ner/dev")).words
        == next(read_sentences("demo:ner", split="dev", tagged=False)).words
    )


def test_parts_of_speech_follow_from_neighbours():
    """No sentence stands in two splits, dev has words that train lacks, and a word alone does not tell its tag."""
    splits = {split: list(read_sentences(f"demo:pos/{split}")) for split in pos.SIZES}
    assert {split: len(found) for split, found in splits.items()} == pos.SIZES
    text = repr([(s.words, s.tags) for found in splits.values() for s in found])
    # A change of the corpus changes every score measured on it: then measure them again.
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "3e6727142b5f90a2"
    texts = {split: {" ".join(s.words).lower() for s in found} for split, found in splits.items()}
    assert not texts["train"] & (texts["dev"] | texts["test"]) and not texts["dev"] & texts["test"]
    tags = collections.defaultdict(collections.Counter)
    for sentence in splits["train"]:
        for word, tag in zip(sentence.words, sentence.tags, strict=True):
            tags[word.lower()][tag] += 1
    dev = [(w.lower(), t) for s in splits["dev"] for w, t in zip(s.words, s.tags, strict=True)]
    assert 0.02 < np.mean([word not in tags for word, _ in dev]) < 0.2
    best = {word: counts.most_common(1)[0][0] for word, counts in tags.items()}
    assert 0.7 < np.mean([best.get(word, "NOUN") == tag for word, tag in dev]) < 0.9
    with pytest.raises(
        UserError, match="demo:pos/all: no such corpus; expected demo:ner/train, .*demo:pos/train"
    ):
        read_sentences("demo:pos/all")
