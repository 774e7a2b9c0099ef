"""CoNLL columns: every word is kept, with its tag, document and place."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxft.data.sources.formats import FileFormat
from jaxft.data.sources.tagged_sentences.tag_schemes import convert_tags_to_iob2, extract_entities
from jaxft.errors import UserError
from tests.conftest import REPOSITORY
from tests.data.sources.conftest import read_list, word_tag_pairs

WNUT = REPOSITORY / "../shared/data/wnut17"


def test_conll_gives_documents_columns_and_origin(write_source):
    path = write_source(
        "-DOCSTART- -X- -X- O\n\nEU NNP B-NP B-ORG\nrejects   VBZ B-VP O\n\n\nPeter NNP B-NP B-PER\n"
        "-DOCSTART- -X- -X- O\nParis NNP B-NP B-LOC"
    )
    sentences = read_list(path)
    assert word_tag_pairs(sentences) == [
        [("EU", "B-ORG"), ("rejects", "O")],
        [("Peter", "B-PER")],
        [("Paris", "B-LOC")],
    ]
    assert [s.document for s in sentences] == [0, 0, 1]
    assert [s.origin for s in sentences] == [f"{path}:{line}" for line in (3, 7, 9)]
    assert word_tag_pairs(read_list(path, word_column=-4, tag_column=1))[0] == [
        ("EU", "NNP"),
        ("rejects", "VBZ"),
    ]
    assert read_list(path, tagged=False)[0].tags is None


def test_conll_keeps_odd_words_between_its_separators(write_source):
    # BOM, CRLF, a lone tab and spaces as separators, words with a space, of U+00A0, and with U+2028 or
    # U+0085 inside, which are line ends to Python but not to the format.
    content = "\ufeffNew York\tB-LOC\r\n\xa0\tO\r\n\t\r\na\u2028b\tO\n   \nc\x85d\tB-PER\n"
    assert word_tag_pairs(read_list(write_source(content))) == [
        [("New York", "B-LOC"), ("\xa0", "O")],
        [("a\u2028b", "O")],
        [("c\x85d", "B-PER")],
    ]
    # U+00A0 does not divide columns of a line without tabs either.
    assert word_tag_pairs(read_list(write_source("a\xa0b  O \n"))) == [[("a\xa0b", "O")]]


def test_comments_never_cost_a_word(write_source):
    content = "# id = 7\n# text = a # b\n# O\n#tag O\nb O\n\n# one alone\n\n# O\n\n"
    assert [s.words for s in read_list(write_source(content))] == [["#", "#tag", "b"], ["#"]]
    content = "#\tsource [1]\tx\n#\tO\nc\tO\n\n# a b\n#\tO\n\n#\tB-X\n"
    assert [s.words for s in read_list(write_source(content))] == [["#", "c"], ["#"], ["#"]]
    assert [s.words for s in read_list(write_source("# a comment\n#\n#tag\nb\n"), tagged=False)] == [
        ["#", "#tag", "b"]
    ]


def test_a_comment_with_as_many_blanks_as_columns_is_no_word(write_source):
    sentence = "# begin document doc1\nRome NNP x B-LOC\nsleeps VBZ x O\n\n"
    for tagged in (True, False):
        assert [s.words for s in read_list(write_source(3 * sentence), tagged=tagged)] == 3 * [
            ["Rome", "sleeps"]
        ]
    # A word has a cell that another line has in this column, or a tag of an entity scheme.
    content = sentence + "# SYM x B-NEW\n1 CD x I-NEW\n\n# NNP y y\nb NN z z\n"
    assert [s.words[0] for s in read_list(write_source(content))] == ["Rome", "#", "#"]
    tabs = "# text = a b c\n#\tNN\tO\na\tNN\tO\n\n"
    assert [s.words for s in read_list(write_source(2 * tabs))] == 2 * [["#", "a"]]


def test_a_file_has_one_divider(write_source):
    assert read_list(write_source("New York\tB-LOC\na b c\tO\n"))[0].words == ["New York", "a b c"]
    for tagged in (True, False):
        with pytest.raises(
            UserError, match=r"line 3: not divided by spaces as the first sentence is, in 'b c\\tO'"
        ):
            read_list(write_source("a O\n\nb c\tO\n"), tagged=tagged)
        with pytest.raises(
            UserError, match=r"line 2: not divided by tabs as the first sentence is, in 'b O'"
        ):
            read_list(write_source("a\tO\nb O\n"), tagged=tagged)
    assert read_list(write_source("a\tO\n\nb\n"), tagged=False)[1].words == ["b"]
    content = "New York,B-LOC\nsleeps,O\n\nb,O\n"
    delimited = FileFormat("conll", delimiter=",")
    assert word_tag_pairs(read_list(write_source(content), format=delimited)) == [
        [("New York", "B-LOC"), ("sleeps", "O")],
        [("b", "O")],
    ]


@pytest.mark.parametrize(
    "line", ["[1]\tO", "[0\tO", '{"\tO', '["\tO', "[[\tO", "{\tO", "[\tO", "[1] O", "{ O", "[ O"]
)
def test_a_first_word_that_begins_as_json_does_is_a_word(write_source, line):
    content = line + "\n" + line.replace(line.split()[0], "Rome")
    assert read_list(write_source(content))[0].words == [line.split()[0], "Rome"]


def test_the_layout_is_said(write_source):
    log = []
    path = write_source("a x O\nb y O\n")
    read_list(path, log=log.append)
    assert log == [f"{path}: columns divided by spaces, words in column 0 and tags in column 2 of 3"]


def test_a_header_is_left_out_and_names_the_columns(write_source):
    log = []
    path = write_source("word\tpos\nRome\tPROPN\n\nword\tNOUN\n\nword\tpos\nsleeps\tVERB\n", "a.tsv")
    pairs = [[("Rome", "PROPN")], [("word", "NOUN")], [("sleeps", "VERB")]]
    assert word_tag_pairs(read_list(path, log=log.append)) == pairs  # a joined file brings its header along
    assert "header 'word\\tpos' left out" in log[-1]
    path = write_source("\ufeffID FORM NER Lemma\n\n1 Rome B-LOC rome\n2 sleeps O sleep\n")
    [sentence] = read_list(path)
    assert (sentence.words, sentence.tags) == (["Rome", "sleeps"], ["B-LOC", "O"])
    [sentence] = read_list(path, word_column=3, tag_column=1)
    assert (sentence.words, sentence.tags) == (["rome", "sleep"], ["Rome", "sleeps"])
    assert read_list(write_source("the DT\nword NN\n"))[0].words == ["the", "word"]


def test_a_column_of_sentences_divides_them(write_source):
    content = (
        "Sentence #\tWord\tPOS\tTag\nSentence: 1\tRome\tNNP\tB-geo\n\tsleeps\tVBZ\tO\nSentence: 2\t.\t.\tO\n"
    )
    log = []
    for text in (content, content.replace("\n\t", "\nSentence: 1\t")):
        sentences = read_list(write_source(text), format=FileFormat("conll"), log=log.append)
        assert word_tag_pairs(sentences) == [[("Rome", "B-geo"), ("sleeps", "O")], [(".", "O")]]
        assert "sentences divided by column 0" in log[-1]


def test_a_column_that_numbers_words_is_no_column_of_words(write_source):
    content = "1\tRome\tB-LOC\n2\tsleeps\tO\n\n1\tIt\tO\n"
    with pytest.raises(UserError, match=r"column 0 numbers the words .* set config.data.word_column to"):
        read_list(write_source(content))
    assert read_list(write_source(content), word_column=1)[0].words == ["Rome", "sleeps"]
    assert read_list(write_source("1 O\n2 O\n\n7 O\n"))[1].words == ["7"]  # numbers that do not count


def test_a_column_that_is_the_same_in_a_sentence_is_no_column_of_words(write_source):
    content = "".join(
        f"#begin document (a/{i}); part 000\na/{i} 0 Rome NNP O\na/{i} 1 is VBZ O\n\n" for i in range(20)
    )
    with pytest.raises(
        UserError, match=r"all words of each sentence are the same in column 0; set config.data.word"
    ):
        read_list(write_source(content))
    assert read_list(write_source(content), word_column=2)[1].words == ["Rome", "is"]
    assert len(read_list(write_source("ha\n" * 30), tagged=False)[0].words) == 30


def test_label_studio_writes_tags_with_spaces(write_source):
    content = "-DOCSTART- -X- O\nIn -X- _ O\nNew -X- _ B-Geo Political\nYork, -X- _ I-Geo Political\n\nbye -X- _ O\n\n"
    log = []
    sentences = read_list(write_source(content), log=log.append)
    assert word_tag_pairs(sentences) == [
        [("In", "O"), ("New", "B-Geo Political"), ("York,", "I-Geo Political")],
        [("bye", "O")],
    ]
    assert "divided by '-X- _'" in log[-1]


def test_a_language_prefix_of_all_words_is_removed(write_source):
    log = []
    content = "en:Rome\tB-LOC\nen:sleeps\tO\nen::\tO\nen:\tO\n\nen:en:\tO\n"
    sentences = read_list(write_source(content), log=log.append)
    assert [s.words for s in sentences] == [["Rome", "sleeps", ":", "en:"], ["en:"]]
    assert "'en:' removed from all words" in log[-1]
    assert read_list(write_source(content + "\nRome\tO\n"))[0].words[0] == "en:Rome"
    assert read_list(write_source(content + "\nen:Rome\tO\nde:Rom\tO\n"))[0].words[0] == "en:Rome"
    joined = read_list(write_source(content + "\nde:Rom\tO\n"), log=log.append)  # files of two languages
    assert joined[0].words[0] == "Rome" and joined[-1].words == ["Rom"]
    assert "'de:' or 'en:' removed from all words" in log[-1]


CONLLU_SENTENCE = st.lists(
    st.tuples(
        st.text(st.characters(exclude_characters="\t\n\r", exclude_categories=["Cs"]), min_size=1, max_size=5).filter(
            lambda form: form.strip() not in ("", "_")
        ),
        st.sampled_from(["NOUN", "VERB", "X", "_"]),
        st.booleans(),  # a multiword token before the word
        st.booleans(),  # an empty node after the word
    ),
    min_size=1,
    max_size=5,
)  # fmt: skip


COMMENT = st.text(st.characters(exclude_characters="\n\r", exclude_categories=["Cs"]), max_size=20)
COMMENTS = st.lists(COMMENT | st.sampled_from([" newdoc id = 1", "1\tword" + 8 * "\t_"]), max_size=3)


CONLLU = st.lists(st.tuples(COMMENTS, CONLLU_SENTENCE), min_size=1, max_size=4)


def write_conllu(corpus):
    """Returns the lines of a CoNLL-U file, and the numbers of the lines of each sentence's words."""
    lines, numbers = [], []
    for comments, words in corpus:
        lines += [f"#{comment}" for comment in comments]
        numbers.append([])
        for number, (form, tag, is_range_next, has_empty_node) in enumerate(words, 1):
            rest = "\tlemma\t{}\tNN" + 5 * "\t_"
            if is_range_next:
                lines.append(f"{number}-{number + 1}\t{form}x" + rest.format("_"))
            lines.append(f"{number}\t{form}" + rest.format(tag))
            numbers[-1].append(len(lines))
            if has_empty_node:
                lines.append(f"{number}.1\t{form}" + rest.format("VERB"))
        lines.append("")
    return lines, numbers


@given(CONLLU, st.sampled_from(["a.conllu", "a.conll"]))
def test_conllu_gives_its_forms_whatever_stands_between(tmp_path_factory, corpus, name):
    path = tmp_path_factory.mktemp("conllu") / name
    lines, numbers = write_conllu(corpus)
    path.write_text("\n".join(lines), encoding="utf-8", newline="\n")
    sentences = read_list(str(path))
    assert [s.words for s in sentences] == [[word for word, *_ in words] for _, words in corpus]
    assert [s.tags for s in sentences] == [[tag for _, tag, *_ in words] for _, words in corpus]
    for sentence, places in zip(sentences, numbers, strict=True):
        assert places == list(sentence.line_numbers)
        assert sentence.describe_word(-1) == f"{path}, line {places[-1]}"
    [xpos, *_] = read_list(str(path), tag_column=4)
    assert set(xpos.tags) == {"NN"}
    breaks = [" newdoc id = 1" in comments for comments, _ in corpus]
    assert [s.document for s in sentences] == [sum(breaks[1 : i + 1]) for i in range(len(corpus))]


def test_conllu_without_text_or_columns_is_refused(write_source):
    line = "1\t_\t_\tNOUN" + 6 * "\t_" + "\n\n"
    with pytest.raises(UserError, match="all words are '_' in column 1"):
        read_list(write_source(3 * line))
    with pytest.raises(UserError, match=r"line 2: 9 columns, where CoNLL-U has 10"):
        read_list(write_source("1\ta\t_\tNOUN" + 6 * "\t_" + "\n2\tb" + 7 * "\t_" + "\n", "a.conllu"))
    plus = "# global.columns = ID FORM UPOS PARSEME:MWE\n1-2\tdu\t_\t_\n1\tde\tADP\t*\n2\tle\tDET\t1:ID\n"
    assert word_tag_pairs(read_list(write_source(plus, "a.conllu"))) == [[("de", "ADP"), ("le", "DET")]]


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
    assert word_tag_pairs(read_list(str(path), format=FileFormat("conll"))) == corpus


@pytest.mark.skipif(not WNUT.exists(), reason="needs ../shared/data/wnut17")
@pytest.mark.parametrize(("name", "words"), [("train.conll", 62730), ("dev.conll", 15733)])
def test_wnut17_is_read_whole(name, words):
    path = WNUT / name
    sentences = read_list(str(path))
    # Written out again it is the file, but for its separators: some are empty lines and some a lone tab.
    expected = [line for line in path.read_text("utf-8").split("\n") if line.strip()]
    assert [f"{w}\t{t}" for s in sentences for w, t in word_tag_pairs([s])[0]] == expected
    assert sum(len(s.words) for s in sentences) == words
    types = {
        entity_type
        for s in sentences
        for entity_type, _, _ in extract_entities(convert_tags_to_iob2(s.tags, "iob2")[0])
    }
    assert types == {"corporation", "creative-work", "group", "location", "person", "product"}
