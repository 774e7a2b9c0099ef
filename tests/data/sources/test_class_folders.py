"""A folder for each label is read as IMDb's reviews are laid out, and what is not read is told."""

import pytest

from jaxft.data.sources.class_folders import choose_split_folder
from jaxft.data.sources.formats import FileFormat
from jaxft.data.sources.labelled_texts import TextColumns, read_labelled_texts
from jaxft.data.sources.labels import NUMBER, LabelRules
from jaxft.errors import UserError


@pytest.fixture
def reviews(tmp_path):
    """Writes a folder as Maas et al. (2011) lay out their reviews, and returns its path."""
    files = {
        "README": "how it was made",
        "imdb.vocab": "the",
        **{f"{split}/{label}/{n}_{n}.txt": f"{split} {label} {n}" for split in ("train", "test")
           for label in ("pos", "neg") for n in range(3)},
        "train/neg/4_1.txt": "two lines,\r\nand a caf\u00e9\r\n",
        "train/unsup/0_0.txt": "nobody said how it was",
        "train/labeledBow.feat": "9 0:9",
        "train/urls_pos.txt": "http://www.imdb.com/title/tt0453418/usercomments",
        "train/pos/.DS_Store": "",
        "train/.cache/0.txt": "",
    }  # fmt: skip
    for name, content in files.items():
        path = tmp_path / "aclImdb" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, newline="")
    return tmp_path / "aclImdb"


COLUMNS = TextColumns("review", None, "stars")


def read(source, columns=COLUMNS, **options):
    lines = []
    texts = list(read_labelled_texts(str(source), columns=columns, log=lines.append, **options))
    return [(text.text, text.label, text.origin) for text in texts], lines


def test_the_name_of_a_folder_is_the_label_of_its_texts(reviews):
    texts, lines = read(reviews / "train")
    folder = f"{reviews}/train"
    expected = [(f"train {label} {n}", label, f"{folder}/{label}/{n}_{n}.txt:1") for label in ("neg", "pos")
                for n in range(3)]  # fmt: skip
    expected.insert(3, ("two lines,\r\nand a caf\u00e9", "neg", f"{folder}/neg/4_1.txt:1"))
    assert texts == expected
    assert lines == [
        f"{folder}: 2 folders, read as labels, with a text in each file .txt",
        f"{folder}/unsup: not read, because its texts have no label: 1 files",
        f"{folder}: not read, because they are not .txt in the folder of a label: 2 files",
    ]
    assert read(f"{folder}?stars=pos")[0] == expected[4:]
    assert [label for _, label, _ in read(folder, TextColumns(label=None))[0]] == [None] * 7
    (reviews / "train/pos/9_9.txt").write_bytes("caf\u00e9".encode("utf-16"))
    assert read(folder)[0][-1][0] == "caf\u00e9"
    (reviews / "train/pos/9_9.txt").write_bytes("caf\u00e9".encode("latin-1"))
    assert read(folder, format=FileFormat(encoding="latin-1"))[0][-1][0] == "caf\u00e9"


def test_a_split_has_a_folder(reviews):
    (reviews / "train").rename(reviews / "data")
    assert choose_split_folder(str(reviews), "train") == str(reviews)
    (reviews / "data").rename(reviews / "train")
    assert choose_split_folder(str(reviews), "train") == f"{reviews}/train"
    assert choose_split_folder(f"{reviews}?label=pos", "test") == f"{reviews}/test?label=pos"
    assert choose_split_folder(f"{reviews}/train", "train") == f"{reviews}/train"
    assert choose_split_folder(str(reviews), "dev") == str(reviews)
    (reviews / "test").rename(reviews / "valid")
    assert choose_split_folder(str(reviews), "dev") == f"{reviews}/valid"
    for source in ("demo:sentiment/train", "hub:imdb/train", "-", str(reviews / "README")):
        assert choose_split_folder(source, "train") == source


def test_folders_may_be_named_by_numbers(tmp_path):
    for label in ("1", "4.5"):
        (tmp_path / label).mkdir()
        (tmp_path / label / "a.txt").write_text("")
    assert [(text, label) for text, label, _ in read(tmp_path, rules=LabelRules(NUMBER))[0]] == [
        ("", 1.0),
        ("", 4.5),
    ]


def test_other_folders_are_refused(reviews):
    with pytest.raises(
        UserError, match=f"aclImdb: a folder, where .* name {reviews}/test or {reviews}/train$"
    ):
        read(reviews)
    with pytest.raises(UserError, match="pos: a folder, where .*LABEL/NAME.txt; name a file in it"):
        read(reviews / "train/pos")
    (reviews / "valid/pos").mkdir(parents=True)
    (reviews / "valid/pos/1.txt").write_text("a single label")
    with pytest.raises(UserError, match="valid: a folder, where .* each of two labels or more was expected"):
        read(reviews / "valid")
    with pytest.raises(UserError, match="train: a folder, where a data file was expected"):
        read(reviews / "train", format=FileFormat("csv"))
    with pytest.raises(UserError, match="0_0.txt: no key 'other' in"):
        read(reviews / "train", TextColumns("review", "other", "stars"))
    (reviews / "train/neg/0_0.txt").write_bytes(b"\x1f\x8b\x08" + bytes(40))
    with pytest.raises(UserError, match="0_0.txt: .*gzip"):
        read(reviews / "train")
