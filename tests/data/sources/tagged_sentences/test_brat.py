"""Texts with brat's annotations are read line by line, and what is left out of them is said."""

import pytest

from jaxft.data.sources.tagged_sentences.sentences import read_sentences
from jaxft.data.sources.tagged_sentences.span_offsets import SpanRules
from jaxft.errors import UserError

TEXT = (
    "Sony formed a joint venture with\nEricsson AB, a phone\ncompany.\n\nleft and right arm 😀 hurt in Bonn\n"
)
ANNOTATIONS = """\
T1	Organization 0 4	Sony
T2	MERGE-ORG 14 27	joint venture
T3	Organization 33 44	Ericsson AB
T4	Thing 48 53;54 61	phone company
E1	MERGE-ORG:T2 Org1:T1 Org2:T3
T5	Arm 64 68;79 82	left arm
A1	Negation E1
R1	Origin Arg1:T3 Arg2:T4
*	Equiv T1 T3
N1	Reference T1 Wikipedia:534366	Sony
#1	AnnotatorNotes T1	why?
T6	City 93 97	Bonn
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a").mkdir()
    for name, text, annotations in (
        ("a/doc-1", TEXT, ANNOTATIONS),
        ("doc-2", "Rome\r\nsleeps\r\nin Rome", "T1\tCity 17 21\tRome\n"),
    ):
        (tmp_path / f"{name}.txt").write_bytes(text.encode())
        (tmp_path / f"{name}.ann").write_bytes(annotations.encode())
    return tmp_path


def read(source, **options):
    log = []
    return list(read_sentences(str(source), log=log.append, **options)), log


def entities(sentence):
    return [f"{word}:{tag}" for word, tag in zip(sentence.words, sentence.tags, strict=True) if tag != "O"]


def test_a_folder_of_texts_and_annotations(folder):
    sentences, log = read(folder)
    assert [entities(sentence) for sentence in sentences] == [
        ["Sony:B-Organization", "joint:B-MERGE-ORG", "venture:I-MERGE-ORG"],
        ["Ericsson:B-Organization", "AB:I-Organization", "phone:B-Thing", "company:I-Thing"],
        ["left:B-Arm", "arm:B-Arm", "Bonn:B-City"],
        [],
        [],
        ["Rome:B-City"],
    ]
    assert [sentence.document for sentence in sentences] == [0, 0, 0, 1, 1, 1]
    origins = [sentence.origin.removeprefix(f"{folder}/") for sentence in sentences]
    assert origins == [
        "a/doc-1.txt:1",
        "a/doc-1.txt:2",
        "a/doc-1.txt:5",
        "doc-2.txt:1",
        "doc-2.txt:2",
        "doc-2.txt:3",
    ]
    for sentence in sentences:  # offsets are those of the line
        assert [sentence.text[start:end] for start, end in sentence.offsets] == sentence.words
    assert [line.partition(": ")[2] for line in log] == [
        "brat's annotations of 2 texts",
        "spans in pieces, of which each piece becomes a span of its own: 1",
        "not read: 1 events, 1 attributes, 1 relations, 1 equivalences, 1 normalizations, 1 notes",
    ]


@pytest.mark.parametrize("source", ["doc-2.txt", "doc-2.ann", "*.ann", "doc*.txt", "doc-?.*"])
def test_files_and_patterns(folder, source):
    sentences, log = read(folder / source)
    assert [sentence.words[0] for sentence in sentences] == ["Rome", "sleeps", "in"]
    assert log == [f"{folder}/{source}: brat's annotations of 1 text"]


def test_a_text_with_annotations_is_predicted_as_text(folder):
    assert [s.words for s in read(folder / "doc-2.txt", tagged=False)[0]] == [
        ["Rome"],
        ["sleeps"],
        ["in", "Rome"],
    ]


def test_the_text_of_a_span_shows_wrong_offsets(folder):
    """brat counts carriage returns and characters."""
    (folder / "doc-2.ann").write_text("T1\tCity 15 19\tRome\n")
    sentences, log = read(folder / "doc-2.ann")
    assert "of 1 spans, 1 cover another text than the record says" in log[-1]
    assert "'i[n Ro]me' (City, where the record says 'Rome')" in log[-1]
    (folder / "doc-2.txt").write_text("😀 Rome")
    (folder / "doc-2.ann").write_text("T1\tCity 3 7\tRome\n")
    with pytest.raises(UserError, match="set config.data.offsets=utf16"):
        read(folder / "doc-2.ann")
    assert entities(read(folder / "doc-2.ann", rules=SpanRules(offsets="utf16"))[0][0]) == ["Rome:B-City"]


@pytest.mark.parametrize(
    ("annotations", "message"),
    [
        (
            "T1\tCity 17\tRome\n",
            r"doc-2.ann, line 1: 'T1\\tCity 17\\tRome' is not a span; expected ID<tab>LABEL",
        ),
        ("T1\tO 17 21\tRome\n", "line 1: .* with a label that is not O"),
        ("T1\tCity 17 29\tRome\n", "doc-2.ann: span 17..29 .City. does not lie in the text of 21 characters"),
        ("T1\tA 0 4\tRome\nT2\tB 0 4\tRome\n", "overlap; .* or set config.data.overlaps='longest'"),
    ],
)
def test_bad_annotations_are_named(folder, annotations, message):
    (folder / "doc-2.ann").write_text(annotations)
    with pytest.raises(UserError, match=message):
        read(folder / "doc-2.txt")


def test_texts_and_annotations_belong_together(folder):
    (folder / "doc-3.txt").write_text("Rome")
    (folder / "a" / "doc-1.ann").write_text("")
    log = [line.partition(": ")[2] for line in read(folder)[1]]
    assert log == [
        "brat's annotations of 2 texts",
        f"texts without annotations NAME.ann are not read (1, such as {folder}/doc-3.txt)",
        "texts whose NAME.ann has no span: 1",
    ]
    with pytest.raises(
        UserError, match=r"doc-3.txt: no .*doc-3.ann, where 1 other files of .*\*.txt have brat's"
    ):
        read(folder / "*.txt")
    (folder / "doc-2.txt").unlink()
    with pytest.raises(UserError, match=r"doc-2.ann: no .*doc-2.txt next to it"):
        read(folder / "doc-2.ann")
