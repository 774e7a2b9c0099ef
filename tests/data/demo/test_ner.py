"""The synthetic newswire corpus holds the promises of the recipes."""

import collections
import hashlib
import itertools
import re

import pytest

from jaxft.data.demo import ner
from jaxft.data.sources.dev_split import find_sentence_overlap
from jaxft.data.sources.tagged_sentences import tag_schemes
from jaxft.data.sources.tagged_sentences.sentences import read_sentences
from jaxft.errors import UserError


@pytest.fixture(scope="module")
def corpus():
    return {split: list(ner.generate_sentences(split)) for split in ner.SIZES}


@pytest.fixture(scope="module")
def entities(corpus):
    """Counts the types of each entity string in lower case, by split."""
    types = {split: collections.defaultdict(collections.Counter) for split in corpus}
    for split, sentences in corpus.items():
        for sentence in sentences:
            for entity_type, first, last in tag_schemes.extract_entities(sentence.tags):
                types[split][" ".join(sentence.words[first:last]).lower()][entity_type] += 1
    return types


def test_the_corpus_is_the_same_on_every_machine(corpus):
    text = repr([(s.words, s.tags, s.document) for split in corpus.values() for s in split])
    # A change of the corpus changes every score measured on it: then measure them again.
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "e06e71f054a3358c"


def test_sizes_documents_and_tags_are_as_promised(corpus):
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
    for split, other in itertools.combinations(corpus, 2):
        assert not entities[split].keys() & entities[other].keys()
        assert find_sentence_overlap(corpus[split], corpus[other]).sum() == 0


def test_names_are_many_and_ambiguous(entities):
    for split, types_by_name in entities.items():
        counts = sum(types_by_name.values(), collections.Counter())
        assert set(counts) == {"PER", "ORG", "LOC", "MISC"}
        assert min(counts.values()) > 0.05 * counts.total()
        assert len(types_by_name) > (2000 if split == "train" else 400)
        assert sum(len(types) > 1 for types in types_by_name.values()) >= 10
        assert sum(" " in name for name in types_by_name) > 0.3 * len(types_by_name)
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
    assert sum(len(lines) for lines in ner._select_templates("dev").values()) >= 60


def test_an_unknown_split_is_named():
    with pytest.raises(UserError, match="no split 'valid'; expected one of train, dev, test"):
        ner.generate_sentences("valid")
    assert (
        next(read_sentences("demo:ner/dev")).words
        == next(read_sentences("demo:ner", split="dev", tagged=False)).words
    )
