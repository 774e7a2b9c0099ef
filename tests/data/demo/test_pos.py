"""The part-of-speech corpus: tags follow from neighbours, and no sentence stands in two splits."""

import collections
import hashlib

import numpy as np
import pytest

from jaxft.data.demo import pos
from jaxft.data.sources.tagged_sentences.sentences import read_sentences
from jaxft.errors import UserError


def test_parts_of_speech_follow_from_neighbours():
    """No sentence stands in two splits, dev has words that train lacks, and a word alone does not tell its tag."""
    splits = {split: list(read_sentences(f"demo:pos/{split}")) for split in pos.SIZES}
    assert {split: len(sentences) for split, sentences in splits.items()} == pos.SIZES
    text = repr([(s.words, s.tags) for sentences in splits.values() for s in sentences])
    # A change of the corpus changes every score measured on it: then measure them again.
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "3e6727142b5f90a2"
    texts = {split: {" ".join(s.words).lower() for s in sentences} for split, sentences in splits.items()}
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
