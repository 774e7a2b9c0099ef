"""Tags are read however they are spelled, and labels that may be tags in disguise are refused, parts of speech not."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxft.data.sources.tagged_sentences.sentence import Sentence
from jaxft.data.sources.tagged_sentences.tag_schemes import NO_SCHEME, convert_sentences_to_iob2
from jaxft.errors import UserError
from tests.data.sources.tagged_sentences.test_tag_schemes import ENTITIES, write_tags

# Neighbours of one type, singles and long ones, so that a scheme can be told from the others.
CLEAR = [("PER", 1), ("PER", 3), (None, 1), ("PER", 2), ("LOC", 1), ("LOC", 2)]
# Names of schemes -> scheme of ours, and the letters that it writes for ours.
SCHEMES = {
    "iob1": ("iob1", {}),
    "iob2": ("iob2", {}),
    "bioes": ("bioes", {}),
    "bilou": ("bilou", {}),
    "bmes": ("bioes", {"I": "M"}),
    "bmewo": ("bioes", {"I": "M", "S": "W"}),
}


def spell(tags, letters, divider, is_first, in_lower_case):
    """Writes tags such as B-LOC in another spelling."""

    def spell_tag(tag):
        if tag == "O":
            return tag
        letter, _, entity_type = tag.partition("-")
        letter = letters.get(letter, letter)
        return f"{letter}{divider}{entity_type}" if is_first else f"{entity_type}{divider}{letter}"

    return [spell_tag(tag).lower() if in_lower_case else spell_tag(tag) for tag in tags]


def convert(sequences, **options):
    """Converts tag sequences; returns the tags of each, and the report."""
    sentences = [Sentence(["w"] * len(tags), tags, 0, f"f:{i}") for i, tags in enumerate(sequences)]
    converted, report = convert_sentences_to_iob2(sentences, **options)
    return [sentence.tags for sentence in converted], report


def convert_counts(counts):
    """Converts a source of one-word sentences with so many of each label."""
    return convert([[label] for label, count in counts.items() for _ in range(count)])


@given(
    st.lists(ENTITIES, max_size=4),
    st.sampled_from(sorted(SCHEMES)),
    st.sampled_from("-_/:.|+ "),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_every_scheme_in_every_spelling_gives_the_same_entities(
    corpus, name, divider, is_first, in_lower_case, is_known
):
    scheme, letters = SCHEMES[name]
    corpus = [CLEAR, *corpus]
    expected = [write_tags(entities, "iob2") for entities in corpus]
    if in_lower_case:
        expected = [[tag[:2] + tag[2:].lower() for tag in tags] for tags in expected]
    spelled = [
        spell(write_tags(entities, scheme), letters, divider, is_first, in_lower_case) for entities in corpus
    ]
    tags, report = convert(spelled, scheme=scheme if is_known else None)
    assert (tags, report.scheme, report.invalid) == (expected, scheme, 0)
    is_usual = is_first and divider == "-" and not in_lower_case and not letters
    assert ("written as" in str(report)) == (not is_usual)


@given(
    st.lists(ENTITIES, max_size=4),
    st.sampled_from(sorted(SCHEMES)),
    st.sampled_from(["", "-", "_"]),
    st.booleans(),
)
def test_letters_alone_are_entities_of_one_type(corpus, name, sign, in_lower_case):
    scheme, letters = SCHEMES[name]
    corpus = [[(kind and "ENT", length) for kind, length in entities] for entities in [CLEAR, *corpus]]
    expected = [write_tags(entities, "iob2") for entities in corpus]
    spelled = [
        [tag.replace("-ENT", sign) for tag in spell(write_tags(e, scheme), letters, "-", True, False)]
        for e in corpus
    ]
    if in_lower_case:
        spelled = [[tag.lower() for tag in tags] for tags in spelled]
    tags, report = convert(spelled)
    assert (tags, report.scheme, report.invalid) == (expected, scheme, 0)
    assert "without a type, read as ENT (config.data.entity_type)" in str(report)
    assert convert(spelled, entity_type="Gene")[0] == [
        [t.replace("ENT", "Gene") for t in tags] for tags in expected
    ]


def test_words_that_are_all_in_entities_need_no_o():
    """Chinese words in characters: B, M, E and S."""
    tags, report = convert([["B", "E", "S", "B", "M", "E"]])
    assert tags == [["B-ENT", "I-ENT", "B-ENT", "B-ENT", "I-ENT", "I-ENT"]] and report.scheme == "bioes"


def test_a_tag_that_does_not_fit_the_spelling_is_named_as_it_stands():
    with pytest.raises(
        UserError, match=r"word 1 of the sentence at f:2: the tag 'LOC' is not one of the scheme IOB2"
    ):
        convert([["B_LOC", "I_LOC"], ["B_PER", "O"], ["LOC"]])
    with pytest.raises(UserError, match="the tag 'S_LOC' is not one of the scheme IOB2"):
        convert([["B_LOC", "S_LOC"]], scheme="iob2")


@pytest.mark.parametrize(
    ("counts", "scheme"),
    [
        ({"NOUN": 30, "VERB": 20, "ADJ": 25, "X": 5, "_": 3, "O": 0}, NO_SCHEME),
        ({"NN": 3, "NNS": 2, "VB": 2, "VBD": 2, "JJR": 1, "RBR": 1, "JJS": 1, "RBS": 1, "IN": 4, ".": 9}, NO_SCHEME),
        ({"b": 2, "i": 1, "m": 5, "n": 30, "o": 1, "v": 20, "u": 9, "s": 1, "l": 2, "w": 15}, NO_SCHEME),  # PKU
        ({"u--": 14, "l-s": 15, "n-s": 30, "v3s": 30, "i--": 1, "b-s": 1}, NO_SCHEME),  # positional tags
        ({"NAME": 9, "X-LONG": 5, "NUM": 1}, NO_SCHEME),
        ({"N-SG": 9, "N-PL": 3, "V-SG": 7, "V-PL": 2, "PUNCT": 4, "ADV": 4}, NO_SCHEME),
        ({"NOUN": 19}, NO_SCHEME),
        ({"Na": 40, "VH": 10, "DE": 9, "Nb": 9}, NO_SCHEME),  # Sinica
        ({"O": 90, "PER": 5, "LOC": 5}, "io"),
        ({"o": 90, "per": 5, "loc": 5}, "io"),
        ({"O": 80, "art-film": 5, "art-music": 5, "art-other": 4, "person-actor": 3, "person-other": 4}, "io"),
        ({"O": 2, "PER": 3}, "io"),
        ({"O": 90, "drug-name": 6, "drug-dose": 4}, "io"),
    ],
)  # fmt: skip
def test_plain_labels_stay_what_they_are(counts, scheme):
    tags, report = convert_counts(counts)
    assert report.scheme == scheme
    if scheme == NO_SCHEME:
        assert [label for [label] in tags] == [label for label, n in counts.items() for _ in range(n)]
        assert "kept as they are, as parts of speech; set config.data.scheme if" in str(report)
    else:
        assert "set config.data.scheme=none if they form no entities" in str(report)
        assert {tag for [tag] in tags} <= {"O"} | {f"B-{label}" for label in counts}


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"begin_LOC": 9, "inside_LOC": 3, "none": 80}, r"in pairs, .*not known \('begin_LOC', 'inside_LOC'\), and"),
        ({"LOC.at": 9, "LOC.on": 3, "PER.at": 4, "PER.on": 1, "O": 80}, "'LOC.at', 'LOC.on', 'PER.at', 'PER.on'"),
        ({"BLOC": 9, "ILOC": 3, "O": 80}, "'BLOC', 'ILOC'.* read as entity types; .*=none .*, or =io"),
        ({"B": 9, "I": 9, "X": 9, "O": 80}, "come in pairs.*'B', 'I'"),
        ({"_": 80, "LOC": 9, "PER": 11}, "80 of 100 words have the label '_', .* but no tag is O.*=none for labels"),
        ({"Other": 8, "LOC": 3}, "8 of 11 words have the label 'Other'"),
        ({"rest": 700, "LOC": 150, "PER": 50, "ORG": 100}, "700 of 1,000 words have the label 'rest'"),
        ({"-": 20}, "all 20 words have the label '-', .*tag_column"),
        ({"N": 50, "V": 40, "O": 10}, "50 of 100 words have the label 'N' and 10 the label 'O', which should"),
    ],
)  # fmt: skip
def test_labels_that_may_be_tags_are_refused(counts, message):
    with pytest.raises(UserError, match=f"^f: .*{message}") as error:
        convert_counts(counts)
    assert "config.data.scheme" in str(error.value) or len(counts) == 1
    labels = list(itertools.chain(*([label] * count for label, count in counts.items())))
    assert convert([labels], scheme=NO_SCHEME)[0] == [labels]
