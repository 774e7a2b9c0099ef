"""What is read of tagged sentences is said, with what is doubtful about it."""

from jaxft.tasks.token_classification.data import read_tagged_sentences
from jaxft.tasks.token_classification.settings import Data


def read(tmp_path, content, **settings):
    """Returns the sentences of a file and the lines of the log after the file's name."""
    (tmp_path / "a.conll").write_text(content)
    log = []
    sentences = read_tagged_sentences(Data(**settings), "train", str(tmp_path / "a.conll"), log.append)
    return sentences, [line.replace(str(tmp_path), "") for line in log]


def test_the_layout_and_the_spelling_of_tags_are_said(tmp_path):
    sentences, log = read(tmp_path, 3 * "APC2\tB\nprotein\tI\nbinds\tO\n\n", entity_type="Gene")
    assert sentences[0].tags == ["B-Gene", "I-Gene", "O"]
    assert log == [
        "/a.conll: columns divided by tabs, words in column 0 and tags in column 1 of 2",
        "train: /a.conll: 3 sentences, 9 words, tags in IOB2 (B, I without a type, read as Gene "
        "(config.data.entity_type)); entities: Gene 3",
    ]


def test_doubts_are_said(tmp_path):
    _, log = read(tmp_path, "Rome B-LOC\nOslo B-Loc\n" + 600 * "a O\nb O\n")
    assert log[2:] == [
        "warning: train: the sentence at /a.conll:1 has 1,202 words; are sentences divided (by blank lines, in "
        "columns)?",
        "warning: train: labels that differ in letter case only are different labels: LOC, Loc",
    ]
    assert len(read(tmp_path, "Rome B-LOC\nOslo O\n")[1]) == 2
