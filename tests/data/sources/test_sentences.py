"""Tests of reading sources: what is kept, and what is said of bad input."""

import io
import itertools
import json
import subprocess
import sys

import datasets
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxft.data.sources import records
from jaxft.data.sources.dev_split import find_sentence_overlap, split_dev_sentences
from jaxft.data.sources.sentence import Sentence, split_words, tag_words
from jaxft.data.sources.sentences import read_sentences
from jaxft.data.sources.tag_schemes import convert_tags_to_iob2, extract_entities
from jaxft.errors import UserError
from tests.conftest import REPOSITORY

WNUT = REPOSITORY / "../shared/data/wnut17"


@pytest.fixture
def write(tmp_path):
    """Writes bytes, text or records (as JSON lines) to a file and returns its path."""

    def write(content, name="data.conll"):
        if isinstance(content, list):
            content = "".join(json.dumps(record) + "\n" for record in content)
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write


def read(source, **options):
    return list(read_sentences(source, **options))


def pairs(sentences):
    return [list(zip(sentence.words, sentence.tags, strict=True)) for sentence in sentences]


# ---- CoNLL columns


def test_conll_documents_columns_and_origin(write):
    path = write(
        "-DOCSTART- -X- -X- O\n\nEU NNP B-NP B-ORG\nrejects   VBZ B-VP O\n\n\nPeter NNP B-NP B-PER\n"
        "-DOCSTART- -X- -X- O\nParis NNP B-NP B-LOC"
    )
    sentences = read(path)
    assert pairs(sentences) == [
        [("EU", "B-ORG"), ("rejects", "O")],
        [("Peter", "B-PER")],
        [("Paris", "B-LOC")],
    ]
    assert [s.document for s in sentences] == [0, 0, 1]
    assert [s.origin for s in sentences] == [f"{path}:{line}" for line in (3, 7, 9)]
    assert pairs(read(path, word_column=-4, tag_column=1))[0] == [("EU", "NNP"), ("rejects", "VBZ")]
    assert read(path, tagged=False)[0].tags is None


def test_conll_separators_marks_and_odd_words(write):
    # BOM, CRLF, a lone tab and spaces as separators, words with a space, of U+00A0, and with U+2028 or
    # U+0085 inside, which are line ends to Python but not to the format.
    content = "\ufeffNew York\tB-LOC\r\n\xa0\tO\r\n\t\r\na\u2028b\tO\n   \nc\x85d\tB-PER\n"
    assert pairs(read(write(content))) == [
        [("New York", "B-LOC"), ("\xa0", "O")],
        [("a\u2028b", "O")],
        [("c\x85d", "B-PER")],
    ]
    # U+00A0 does not divide columns of a line without tabs either.
    assert pairs(read(write("a\xa0b  O \n"))) == [[("a\xa0b", "O")]]


def test_conll_comments_never_cost_a_word(write):
    content = "# id = 7\n# text = a # b\n# O\n#tag O\nb O\n\n# one alone\n\n# O\n\n#\tsource [1]\tx\nc\tO\n"
    assert [s.words for s in read(write(content))] == [["#", "#tag", "b"], ["#"], ["c"]]
    assert [s.words for s in read(write("# a comment\n#\n#tag\nb\n"), tagged=False)] == [["#", "#tag", "b"]]


_WORDS = st.text(
    st.characters(exclude_characters="\t\n\r", exclude_categories=["Cs"]), min_size=1, max_size=6
)


@given(
    st.lists(
        st.lists(
            st.tuples(_WORDS.filter(lambda w: w.strip()), st.sampled_from(["O", "B-X"])),
            min_size=1,
            max_size=5,
        ),
        min_size=1,
        max_size=4,
    )
)
def test_conll_round_trip_keeps_every_word(tmp_path_factory, corpus):
    path = tmp_path_factory.mktemp("conll") / "words.tsv"
    text = "\n\n".join("\n".join(f"{word}\t{tag}" for word, tag in sentence) for sentence in corpus)
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert pairs(read(str(path))) == corpus


@pytest.mark.skipif(not WNUT.exists(), reason="needs ../shared/data/wnut17")
@pytest.mark.parametrize(("name", "words"), [("train.conll", 62730), ("dev.conll", 15733)])
def test_wnut17_is_read_whole(name, words):
    path = WNUT / name
    sentences = read(str(path))
    # Written out again it is the file, but for its separators: some are empty lines and some a lone tab.
    expected = [line for line in path.read_text("utf-8").split("\n") if line.strip()]
    assert [f"{w}\t{t}" for s in sentences for w, t in pairs([s])[0]] == expected
    assert sum(len(s.words) for s in sentences) == words
    types = {
        kind
        for s in sentences
        for kind, _, _ in extract_entities(convert_tags_to_iob2(s.tags, "iob2", s.origin)[0])
    }
    assert types == {"corporation", "creative-work", "group", "location", "person", "product"}


def test_streams_from_stdin(monkeypatch):
    class Endless(io.RawIOBase):
        def __iter__(self):
            return itertools.cycle([b"word\tO\n", b"\n"])

    monkeypatch.setattr(sys, "stdin", type("Stdin", (), {"buffer": Endless()}))
    first = list(itertools.islice(read_sentences("-"), 3))
    assert [s.origin for s in first] == ["<stdin>:1", "<stdin>:3", "<stdin>:5"]
    assert next(read_sentences("-", tagged=False)).text == "word\tO"


# ---- text


@given(st.text())
def test_split_words_covers_the_text(text):
    words = split_words(text)
    assert all(start < end for start, end in words)
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(words))
    covered = {i for start, end in words for i in range(start, end)}
    assert covered == {i for i, character in enumerate(text) if not character.isspace()}


def test_split_words_of_usual_text():
    def split(text):
        return [text[start:end] for start, end in split_words(text)]

    assert split("Reuters' O'Brien (AT&T's) paid $3.50 in the U.S. on 1,000 well-known days...") == (
        "Reuters ' O'Brien ( AT&T 's ) paid $ 3.50 in the U.S. on 1,000 well-known days . . .".split()
    )
    # An accent, a variation selector and a vowel sign stay with their letter; ideographs stand alone.
    assert split("cafe\u0301 \u2764\ufe0f! हिन्दी 東京") == [
        "cafe\u0301",
        "\u2764\ufe0f",
        "!",
        "हिन्दी",
        "東",
        "京",
    ]


def test_spans_cut_words_so_that_none_is_lost(write):
    text = "Anti-Ford NewYork  Inc."
    labels = [(5, 9, "ORG"), (10, 13, "ADJ"), (13, 22, "LOC")]
    record = {"text": text, "spans": [{"start": s, "end": e, "label": k} for s, e, k in reversed(labels)]}
    (sentence,) = read(write([record], "data.jsonl"))
    assert sentence.words == ["Anti-", "Ford", "New", "York", "Inc", "."]
    assert sentence.tags == ["O", "B-ORG", "B-ADJ", "B-LOC", "I-LOC", "O"]
    assert [text[start:end] for start, end in sentence.offsets] == sentence.words


@given(st.text(min_size=1, max_size=30), st.data())
def test_spans_round_trip(text, data):
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=6)))
    labels = [(a, b, "X") for a, b in itertools.pairwise(cuts) if text[a:b].strip()]
    offsets, tags = tag_words(text, labels, "here")
    found = [(offsets[first][0], offsets[last - 1][1]) for _, first, last in extract_entities(tags)]

    def stripped(start, end):  # whitespace at the borders of a span is in no word
        kept = [i for i in range(start, end) if not text[i].isspace()]
        return kept[0], kept[-1] + 1

    assert found == [stripped(start, end) for start, end, _ in labels]


# ---- records


def test_records_agree_between_formats(write, tmp_path):
    records = [
        {"tokens": ["NA", "a b", 'say "x, y"'], "tags": ["B-X", "O", "I-X"]},
        {"tokens": ["null", "\xa0"], "tags": ["O", "O"]},
    ]
    expected = [list(zip(r["tokens"], r["tags"], strict=True)) for r in records]
    names = ["O", "B-X", "I-X"]
    schema = datasets.Features(
        {
            "tokens": datasets.List(datasets.Value("string")),
            "ner_tags": datasets.List(datasets.ClassLabel(names=names)),
        }
    )
    coded = [{"tokens": r["tokens"], "ner_tags": [names.index(t) for t in r["tags"]]} for r in records]
    datasets.Dataset.from_list(coded, features=schema).to_parquet(str(tmp_path / "data.parquet"))
    datasets.Dataset.from_list([{k: json.dumps(v) for k, v in r.items()} for r in records]).to_csv(
        str(tmp_path / "data.csv"), index=False
    )
    for path in (write(records, "data.jsonl"), str(tmp_path / "data.csv"), str(tmp_path / "data.parquet")):
        sentences = read(path)
        assert pairs(sentences) == expected, path
        assert [s.document for s in sentences] == [0, 1]
        assert read(path, tagged=False)[0].tags is None
    assert read(str(tmp_path / "data.csv"))[1].origin.endswith("data.csv:3")


def test_csv_of_words_divided_by_spaces_and_of_text(write):
    path = write('words,labels\n"[ EU rejects ]",O B-ORG O O\n', "data.csv")
    columns = {"tokens": "words", "tags": "labels"}
    assert pairs(read(path, columns=columns)) == [[("[", "O"), ("EU", "B-ORG"), ("rejects", "O"), ("]", "O")]]
    path = write('text,spans\n"In\nParis","[{""start"": 3, ""end"": 8, ""label"": ""LOC""}]"\n', "data.csv")
    assert pairs(read(path)) == [[("In", "O"), ("Paris", "B-LOC")]]


def test_empty_records_keep_predictions_aligned(write):
    path = write(
        [{"text": "a", "spans": []}, {"text": " ", "spans": []}, {"text": "b", "spans": []}], "data.jsonl"
    )
    assert [s.words for s in read(path)] == [["a"], ["b"]]
    assert [s.words for s in read(path, tagged=False)] == [["a"], [], ["b"]]
    assert [s.words for s in read(write("a b\n\nc\n", "data.txt"), tagged=False)] == [["a", "b"], [], ["c"]]


# ---- the hub


def test_hub_names_class_labels(monkeypatch):
    features = datasets.Features(
        {
            "tokens": datasets.List(datasets.Value("string")),
            "ner_tags": datasets.List(datasets.ClassLabel(names=["O", "B-PER"])),
        }
    )
    dataset = datasets.Dataset.from_list([{"tokens": ["Ann", "ran"], "ner_tags": [1, 0]}], features=features)
    calls = []
    monkeypatch.setattr(
        datasets, "load_dataset", lambda *args, **options: calls.append((args, options)) or dataset
    )
    assert pairs(read("hub:org/name:en@refs/convert/parquet/train")) == [[("Ann", "B-PER"), ("ran", "O")]]
    assert calls == [(("org/name", "en"), {"revision": "refs/convert/parquet", "split": "train"})]


@pytest.mark.parametrize(
    ("address", "split", "expected"),
    [
        ("hub:conll2003/train", None, ("conll2003", None, None, "train")),
        ("hub:org/name", "dev", ("org/name", None, None, "dev")),
        ("hub:org/name/train[:5%]", None, ("org/name", None, None, "train[:5%]")),
        ("hub:org/name/odd", None, ("org/name", None, None, "odd")),
        ("hub:name@v1.0/test", None, ("name", None, "v1.0", "test")),
        ("hub:org/name@refs/pr/1", "train", ("org/name", None, "refs/pr/1", "train")),
    ],
)
def test_hub_addresses(address, split, expected):
    assert records.parse_hub_address(address, split) == expected


def test_unreachable_hub_says_how_to_go_on():
    # In its own process, as the libraries read the variable when they are imported.
    code = (
        "import os; os.environ['HF_HUB_OFFLINE'] = '1'\n"
        "from jaxft.data.sources.sentences import read_sentences\n"
        "from jaxft.errors import exit_on_user_error\n"
        "with exit_on_user_error(): read_sentences('hub:no-such/dataset/train')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "error: hub:no-such/dataset/train: the hub cannot be reached" in done.stderr
    assert "to go on offline" in done.stderr and "demo:ner/train" in done.stderr and "HF_HOME" in done.stderr


def test_hub_dataset_that_does_not_load(monkeypatch):
    def refuse(*args, **options):
        raise RuntimeError("Dataset scripts are no longer supported\nmore")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(
        UserError, match=r"cannot be loaded \(Dataset scripts .* supported\).*refs/convert/parquet"
    ):
        read_sentences("hub:old/train")
    with pytest.raises(UserError, match="no split is named"):
        read_sentences("hub:org/name")


# ---- bad input


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.conll", "", "a.conll: empty, it holds no sentence"),
        ("a.conll", "\n\t\n# only a comment\n", "a.conll: empty"),
        ("a.conll", "a O\nb\n", r"a.conll, line 2: 1 column, at least 2 expected, in 'b'"),
        ("a.conll", "#tag\nb O\n", r"line 1: 1 column, at least 2"),
        ("a.conll", "a O\nNew York O\n", r"line 2: 3 columns, where the sentence .* line 1 has 2"),
        ("a.conll", "a\tO\t\n", r"line 1: the tag is empty in column -1"),
        ("a.conll", b"a O\n\nb\xe9 O\n", r"a.conll, line 3, byte 2 of the line: 0xe9 is not UTF-8.*iconv"),
        ("a.conll", "a O".encode("utf-16"), r"line 1, byte 1 .*iconv -f UTF-16"),
        ("a.conll", b"\x1f\x8b\x08\x00", r"a.conll: compressed; unpack it with `gunzip`"),
        ("a.jsonl", "", "a.jsonl: empty"),
        ("a.jsonl", '{"tokens": []}\n{"tokens": [}', r"a.jsonl, line 1: no tags in keys \['tokens'\]"),
        ("a.jsonl", '\n{"tokens": [}', r"a.jsonl, line 2, column 13: not valid JSON"),
        ("a.jsonl", "[\n", r"line 1, column \d+: not valid JSON.*jq"),
        ("a.jsonl", "[1]", r"line 1: a JSON list where an object was expected"),
        ("a.jsonl", "[" * 100_000, r"line 1: JSON that cannot be read"),
        ("a.jsonl", [{"words": ["a"]}], r"line 1: no tokens \(or text\) in keys \['words'\]"),
        ("a.jsonl", [{"text": "a"}], r"line 1: no spans in keys \['text'\]"),
        ("a.jsonl", [{"tokens": "a", "tags": ["O"]}], "key 'tokens': a string where a list"),
        ("a.jsonl", [{"tokens": ["a", 1], "tags": ["O"]}], "key 'tokens', item 1: a number where a string"),
        ("a.jsonl", [{"tokens": ["\ud83d"], "tags": ["O"]}], "key 'tokens', item 0: half a surrogate"),
        ("a.jsonl", [{"tokens": ["a", "b"], "tags": ["O"]}], "2 items in 'tokens' but 1 in 'tags'"),
        ("a.jsonl", [{"tokens": ["a"], "ner_tags": [1]}], "key 'ner_tags': tags are numbers"),
        ("a.jsonl", [{"text": "a", "spans": [{"start": 0}]}], "key 'spans', item 0: .* is not a span"),
        (
            "a.jsonl",
            [{"text": "a", "spans": [{"start": 0, "end": 2, "label": "X"}]}],
            r"line 1: span 0\.\.2 \(X\) does not lie in the text of 1 characters",
        ),
        (
            "a.jsonl",
            [{"text": "abc", "spans": [{"start": s, "end": s + 2, "label": "X"} for s in (0, 1)]}],
            r"spans 0\.\.2 \(X\) and 1\.\.3 \(X\) overlap",
        ),
        ("a.jsonl", [{"text": "a b", "spans": [{"start": 1, "end": 2, "label": "X"}]}], "whitespace only"),
        ("a.csv", "tokens,tags\n", "a.csv: empty"),
        ("a.csv", "tokens,tags\na,b,O O\n", "a.csv, line 2: 3 fields where the header has 2"),
        (
            "a.csv",
            "tokens,tags\nx,O\n\"['a', 'b']\",O O\n",
            "a.csv, line 3, key 'tokens': a list that is not JSON",
        ),
        ("a.csv", 'tokens,tags\n"a,O\n', "a.csv, line 2: not valid CSV"),
        ("a.parquet", "no", "a.parquet: not a Parquet file"),
    ],
)
def test_bad_files_are_named_with_their_place(write, name, content, message):
    path = write(content, name)
    with pytest.raises(UserError, match=message):
        read(path)


def test_bad_sources(tmp_path, write):
    missing = str(tmp_path / "none.conll")
    with pytest.raises(UserError, match="none.conll: no such file"):
        read_sentences(missing)  # at once, not at the first sentence
    with pytest.raises(UserError, match="a folder, where a data file"):
        read_sentences(str(tmp_path))
    with pytest.raises(UserError, match="expected demo:ner/train"):
        read_sentences("demo:ner")
    with pytest.raises(UserError, match="suffix does not tell its format"):
        read_sentences(write("a", "a.xyz"), tagged=False)
    with pytest.raises(UserError, match="format 'xml' is unknown"):
        read_sentences(missing, format="xml")
    with pytest.raises(UserError, match=r"columns: \['word'\] unknown"):
        read_sentences(missing, columns={"word": "w"})
    with pytest.raises(UserError, match="plain text has no tags"):
        read_sentences(write("a", "a.txt"), format="text")
    with pytest.raises(UserError, match="Parquet cannot be read from a pipe"):
        read_sentences("-", format="parquet")


# ---- sets


def _corpus(documents):
    return [Sentence([f"w{i}"], ["O"], document, f"f:{i}") for i, document in enumerate(documents)]


def test_split_dev_is_seeded_and_keeps_documents():
    corpus = _corpus([i // 5 for i in range(100)])
    train, dev = split_dev_sentences(corpus, 0.1, 0)
    assert len(dev) == 10 and len(train) == 90
    assert {s.document for s in train}.isdisjoint(s.document for s in dev)
    assert sorted(s.origin for s in train + dev) == sorted(s.origin for s in corpus)
    assert split_dev_sentences(corpus, 0.1, 0) == (train, dev)
    assert split_dev_sentences(corpus, 0.1, 1) != (train, dev)
    # One document is split by sentences; a document far over the fraction is passed over.
    assert len(split_dev_sentences(_corpus([0] * 50), 0.2, 3)[1]) == 10
    assert all(
        len(split_dev_sentences(_corpus([0] * 90 + [1] * 10), 0.1, seed)[1]) == 10 for seed in range(9)
    )
    # Neither side is ever empty.
    for count, fraction in itertools.product((2, 3), (0.001, 0.999)):
        assert all(split_dev_sentences(_corpus([0] * count), fraction, 0))
        assert all(split_dev_sentences(_corpus(range(count)), fraction, 0))
    with pytest.raises(UserError, match="1 sentence in the training data"):
        split_dev_sentences(_corpus([0]), 0.1, 0)
    with pytest.raises(UserError, match="fraction is 1.5"):
        split_dev_sentences(corpus, 1.5, 0)


def test_overlap_counts_dev_sentences():
    train, dev = _corpus([0, 0, 0]), _corpus([0, 0])
    assert find_sentence_overlap(train, dev).sum() == 2
    assert find_sentence_overlap(train, dev + dev).sum() == 4
    assert find_sentence_overlap(train, [Sentence(["w9"], None, 0, "f:1")]).sum() == 0
