"""Tagging schemes are detected and converted to IOB2, and the places that break them are named."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxft.data.sources.tagged_sentences import tag_schemes
from jaxft.data.sources.tagged_sentences.sentence import Sentence
from jaxft.errors import UserError


def write_tags(entities, scheme):
    """Writes the tags of entities `(type or None, length)` in a scheme, from its definition."""
    tags, previous_type = [], None
    for entity_type, length in entities:
        if entity_type is None:
            tags += ["O"] * length
        elif scheme == "io":
            tags += [entity_type] * length
        elif scheme == "iob1":
            tags += [("B-" if previous_type == entity_type else "I-") + entity_type] + [
                f"I-{entity_type}"
            ] * (length - 1)
        elif scheme == "iob2":
            tags += [f"B-{entity_type}"] + [f"I-{entity_type}"] * (length - 1)
        else:
            end, single = {"bioes": "ES", "bilou": "LU"}[scheme]
            inside = [f"I-{entity_type}"] * (length - 2)
            tags += (
                [f"{single}-{entity_type}"]
                if length == 1
                else [f"B-{entity_type}", *inside, f"{end}-{entity_type}"]
            )
        previous_type = entity_type
    return tags


ENTITIES = st.lists(
    st.tuples(st.sampled_from([None, None, "PER", "creative-work"]), st.integers(1, 4)),
    min_size=1,
    max_size=8,
)


@given(st.lists(ENTITIES, max_size=4), st.sampled_from(["iob1", "iob2", "bioes", "bilou"]))
def test_every_scheme_comes_back_as_the_same_entities(corpus, scheme):
    # Neighbours of one type, singles and long ones, so that a scheme can be told from the others.
    corpus = [[("PER", 1), ("PER", 3), (None, 1), ("PER", 2)], *corpus]
    assert tag_schemes.detect_scheme(write_tags(entities, scheme) for entities in corpus) == scheme
    for entities in corpus:
        expected = write_tags(entities, "iob2")
        assert tag_schemes.convert_tags_to_iob2(write_tags(entities, scheme), scheme) == (expected, [])
        position, gold = 0, []
        for entity_type, length in entities:
            gold += [(entity_type, position, position + length)] if entity_type else []
            position += length
        assert tag_schemes.extract_entities(expected) == gold


def test_io_joins_neighbours_of_one_type():
    tags = ["PER", "PER", "ORG", "O", "PER"]
    assert tag_schemes.detect_scheme([tags]) == "io"
    assert tag_schemes.convert_tags_to_iob2(tags, "io") == (["B-PER", "I-PER", "B-ORG", "O", "B-PER"], [])


def test_labels_without_prefix_and_without_o_are_of_no_scheme():
    tags = ["NOUN", "VERB", "NOUN"]
    assert tag_schemes.detect_scheme([tags]) == tag_schemes.NO_SCHEME
    converted, report = tag_schemes.convert_sentences_to_iob2([Sentence(list("abc"), tags, 0, "f:1")])
    assert converted[0].tags == tags and "labels of no scheme" in str(report)
    with pytest.raises(UserError, match="word 2 of the sentence at f:1: the label is empty"):
        tag_schemes.convert_sentences_to_iob2([Sentence(list("ab"), ["NOUN", ""], 0, "f:1")])


@given(st.lists(st.sampled_from(["O", "B-X", "I-X", "B-Y", "I-Y"]), min_size=1, max_size=8))
def test_allowed_transitions_are_those_that_break_no_iob2(tags):
    labels = ["O", "B-X", "I-X", "B-Y", "I-Y"]
    start, follows = tag_schemes.find_allowed_transitions(labels)
    path = [labels.index(tag) for tag in tags]
    valid = start[path[0]] and all(follows[a, b] for a, b in zip(path[:-1], path[1:], strict=True))
    assert valid == (tag_schemes.convert_tags_to_iob2(tags, "iob2")[1] == [])


def test_detection_survives_a_few_mistakes():
    good = ["B-X", "I-X", "O"]
    assert tag_schemes.detect_scheme([good] * 5 + [["O", "I-X"]]) == "iob2"
    assert tag_schemes.detect_scheme([["I-X", "I-X", "O"]] * 5 + [["O", "B-X"]]) == "iob1"
    assert tag_schemes.detect_scheme([["O", "I-X"], ["I-Y", "I-Y"]]) == "iob1"
    assert tag_schemes.detect_scheme([["O"], []]) == "iob2"


@pytest.mark.parametrize(
    ("scheme", "tags", "converted", "invalid"),
    [
        ("iob2", "I-X O B-X I-Y I-Y", "B-X O B-X B-Y I-Y", [0, 3]),
        ("iob1", "O B-X I-X B-X I-Y", "O B-X I-X B-X B-Y", [1]),
        ("bioes", "B-X O S-X I-X E-X", "B-X O B-X B-X I-X", [0, 3]),
        ("bioes", "B-X I-X B-Y E-Y E-Y", "B-X I-X B-Y I-Y B-Y", [1, 4]),
        ("bilou", "B-X I-X", "B-X I-X", [1]),
        ("bilou", "L-X L-X U-X", "B-X B-X B-X", [0, 1]),
    ],
)
def test_invalid_places_are_repaired_and_reported(scheme, tags, converted, invalid):
    assert tag_schemes.convert_tags_to_iob2(tags.split(), scheme) == (converted.split(), invalid)


@given(st.lists(st.sampled_from(["O", *(f"{p}-{t}" for p in "BIES" for t in "XY")]), max_size=9))
def test_conversion_is_always_valid_iob2(tags):
    converted, _ = tag_schemes.convert_tags_to_iob2(tags, "bioes")
    assert tag_schemes.convert_tags_to_iob2(converted, "iob2") == (converted, [])
    assert [tag[2:] for tag in converted] == [tag[2:] for tag in tags]


def test_convert_counts_and_names_the_first_three_places():
    sentences = [Sentence(["a", "b"], ["O", "I-X"], 0, f"f.conll:{line}") for line in (1, 4, 7, 10)]
    sentences.append(Sentence(list("abc"), ["B-X", "I-X", "B-Y"], 0, "f.conll:13"))
    converted, report = tag_schemes.convert_sentences_to_iob2(sentences, "iob2")
    assert [s.tags for s in converted[:4]] == [["O", "B-X"]] * 4
    assert sentences[0].tags == ["O", "I-X"]  # what was read is left as it is
    assert (report.sentences, report.words, report.invalid) == (5, 11, 4)
    assert report.places == [f"'I-X' at word 2 ('b') of f.conll:{line}" for line in (1, 4, 7)]
    assert str(report).startswith("5 sentences, 11 words, tags in IOB2, 4 invalid places, repaired: 'I-X' at")
    assert tag_schemes.convert_sentences_to_iob2(sentences[4:])[1].scheme == "iob2"


@pytest.mark.parametrize(
    ("tags", "scheme", "message"),
    [
        (
            ["O", "S-X"],
            "iob2",
            r"f, line 3: the tag 'S-X' .* IOB2 .* \(O, B-TYPE, I-TYPE\)",
        ),
        (["PER"], "iob1", "the tag 'PER' is not one of the scheme IOB1"),
        (["B-"], "bioes", "the tag 'B-' is not one"),
        (["U-X"], "bioes", "B-TYPE, E-TYPE, I-TYPE, S-TYPE"),
        (["B-X"], "io", r"the tag 'B-X' .* \(O or a type\)"),
        (["O"], "iobes2", "tagging scheme 'iobes2' is unknown"),
    ],
)
def test_a_tag_outside_the_scheme_is_named(tags, scheme, message):
    with pytest.raises(UserError, match=message):
        tag_schemes.convert_tags_to_iob2(tags, scheme, lambda index: f"f, line {index + 2}")
