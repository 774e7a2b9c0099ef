"""Spans are read in the unit and with the ends that they are written in, and never cut a word in silence."""

import itertools

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from jaxft.data.sources.tagged_sentences.sentence import split_words
from jaxft.data.sources.tagged_sentences.span_offsets import SpanReader, SpanRules, WrittenSpan
from jaxft.data.sources.tagged_sentences.spans import parse_sentences
from jaxft.errors import UserError

UNITS = {
    "characters": len,
    "utf16": lambda text: len(text.encode("utf-16-le")) // 2,
    "bytes": lambda t: len(t.encode()),
}
WORDS = st.sampled_from(
    ["Rome", "São", "Łódź", "in", "😀", "👩‍👩‍👧", "東京", "Zoë's", "3.5", "naïve", "¿", "हिन्दी"]
)


def write_span(context, start, end, unit, span_end, label="LOC", **more):
    """Returns a span of characters as a tool with another way of counting would write it."""
    size = UNITS[unit]
    return {
        "start": size(context[:start]),
        "end": size(context[:end]) - (span_end == "inclusive"),
        "label": label,
    } | more


def read(records, log=None, **rules):
    rows = ((f"data, line {number}", f"data:{number}", record) for number, record in enumerate(records, 1))
    reader = SpanReader(SpanRules(**rules))
    sentences = list(parse_sentences(rows, tagged=True, columns={}, span_reader=reader))
    reader.finish([].append if log is None else log.append)
    return sentences


def entity_records(texts, unit, span_end, name="Rome", **more):
    """Returns records whose every `name` is a span."""
    return [
        {"text": text, "spans": [write_span(text, start, start + len(name), unit, span_end, **more)]}
        for text in texts
        for start in [text.index(name)]
    ]


@st.composite
def texts_with_spans(draw):
    """Draws a text, and spans that are words or neighbouring words of it."""
    text = draw(st.sampled_from(["", " ", "😀 "])).join(draw(st.lists(WORDS, min_size=1, max_size=8)))
    words = split_words(text)
    cuts = (
        sorted(draw(st.sets(st.integers(0, len(words)), min_size=2, max_size=6)))
        if len(words) > 1
        else [0, 1]
    )
    return text, [(words[a][0], words[b - 1][1]) for a, b in zip(cuts[:-1], cuts[1:], strict=True)]


@given(
    st.text(min_size=1) | st.text("a é😀東\n", min_size=1),
    st.data(),
    st.sampled_from(list(UNITS)),
    st.sampled_from(["exclusive", "inclusive"]),
)
def test_spans_come_back_from_every_way_of_counting(text, data, unit, span_end):
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=6)))
    spans = [(start, end) for start, end in itertools.pairwise(cuts) if text[start:end].strip()]
    written = [WrittenSpan(*write_span(text, start, end, unit, span_end).values()) for start, end in spans]
    reader = SpanReader(SpanRules(unit, span_end))
    places = reader.read(text, split_words(text), written, "here")
    assert [place[:2] for place in places] == spans


@given(texts_with_spans(), st.sampled_from(list(UNITS)), st.sampled_from(["exclusive", "inclusive"]))
def test_the_text_of_a_span_shows_another_way_of_counting(drawn, unit, span_end):
    """With the span's text in the record, nothing is read wrongly without a word, in any language."""
    text, spans = drawn
    written = [
        WrittenSpan(*write_span(text, start, end, unit, span_end, text=text[start:end]).values())
        for start, end in spans
    ]
    reader, log = SpanReader(SpanRules()), []
    try:
        places = reader.read(text, split_words(text), written, "here")
        reader.finish(log.append)
    except UserError:
        return
    assert log or ["".join(text[s:e].split()) for s, e, _ in places] == [
        "".join(text[s:e].split()) for s, e in spans
    ]


@pytest.mark.parametrize(
    ("unit", "span_end", "settings"),
    [
        ("characters", "inclusive", "config.data.span_end=inclusive"),
        ("utf16", "exclusive", "config.data.offsets=utf16"),
        ("bytes", "exclusive", "config.data.offsets=bytes"),
        ("utf16", "inclusive", "config.data.offsets=utf16 config.data.span_end=inclusive"),
        ("bytes", "inclusive", "config.data.offsets=bytes config.data.span_end=inclusive"),
    ],
)
@pytest.mark.parametrize("more", [{}, {"text": "Rome"}])
def test_another_way_of_counting_is_refused_and_its_setting_named(unit, span_end, settings, more):
    texts = ["São 😀 Rome sleeps", "Rome é 😀", "😀😀 é in Rome", "é Rome", "so 😀, é Rome."]
    records = entity_records(texts, unit, span_end, **more)
    with pytest.raises(UserError) as raised:
        read(records)
    assert f": set {settings}, or config.data." in str(raised.value)
    assert "data, line 1: " in str(raised.value) and "[" in str(raised.value)
    chosen = dict(item.split("=") for item in settings.replace("config.data.", "").split())
    rules = {"offsets": "auto", "end": "auto"} | {
        name.replace("span_", ""): value for name, value in chosen.items()
    }
    sentences = read(records, **rules)
    assert [[w for w, t in zip(s.words, s.tags, strict=True) if t != "O"] for s in sentences] == [
        ["Rome"]
    ] * 5


def test_inclusive_ends_are_recognized_in_plain_text():
    records = [{"text": "Rome sleeps today", "spans": [{"start": 0, "end": 3, "label": "LOC"}]}] * 18
    with pytest.raises(
        UserError,
        match=r"data, line 1: 18 of 18 spans do not begin and end with words: '\[Rom\]e' \(LOC\); all do if .*"
        r"set config.data.span_end=inclusive, or config.data.span_end=exclusive if",
    ):
        read(records)
    assert read(records, end="inclusive")[0].tags == ["B-LOC", "O", "O"]
    # A setting that is given is relied on: the words are cut, and that is said.
    log = []
    assert read(records, log, offsets="characters", end="exclusive")[0].words == [
        "Rom",
        "e",
        "sleeps",
        "today",
    ]
    assert log[0].startswith(
        "warning: of 18 spans, 18 begin or end inside a word: data, line 1: '[Rom]e' (LOC). "
    )


def test_a_span_outside_of_the_text_is_recognized_too():
    records = entity_records(["Rome is nice", "in 😀😀😀 Rome"], "utf16", "exclusive")
    with pytest.raises(UserError, match=r"set config.data.offsets=utf16"):
        read(records)
    records = [{"text": "a Rome", "spans": [{"start": 2, "end": 7, "label": "LOC"}]}]
    with pytest.raises(
        UserError, match=r"span 2..7 \(LOC\) does not lie in the text of 6 characters; `start` counts"
    ):
        read(records)
    with pytest.raises(
        UserError, match=r"begins or ends inside a character of the text of 7 UTF-16 code units"
    ):
        read([{"text": "😀 Rome", "spans": [{"start": 1, "end": 7, "label": "LOC"}]}], offsets="utf16")


def test_a_few_odd_spans_are_kept_and_counted():
    texts = [f"Rome {number}" for number in range(40)]
    odd = {"text": "an Anti-Ford NewYork", "spans": [{"start": 8, "end": 12, "label": "ORG"}]}
    odd["spans"].append({"start": 13, "end": 16, "label": "LOC"})
    log = []
    sentences = read([*entity_records(texts, "characters", "exclusive"), odd], log)
    assert sentences[-1].words == ["an", "Anti-", "Ford", "New", "York"]
    assert sentences[-1].tags == ["O", "O", "B-ORG", "B-LOC", "O"]
    assert log == [
        "warning: of 42 spans, 2 begin or end inside a word: data, line 41: 'Anti-[Ford]' (ORG); '[New]York' (LOC). "
        "Words are split there, so that no span is lost"
    ]


def test_spans_that_no_way_of_counting_fits_are_refused():
    texts = [f"{'x' * (number % 3)} Rome sleeps" for number in range(20)]
    records = [
        {
            "text": text,
            "spans": [{"start": text.index("Rome") + 2, "end": text.index("Rome") + 7, "label": "LOC"}],
        }
        for text in texts
    ]
    with pytest.raises(
        UserError, match=r"of 20 spans, 20 begin .*'Ro\[me sl\]eeps'.*no other way .*offsets=characters if"
    ):
        read(records)
    log = []
    read(records, log, offsets="characters")
    assert len(log) == 1


def test_white_space_at_the_ends_of_a_span_is_no_fault():
    log = []
    records = [{"text": "in Rome today", "spans": [{"start": 2, "end": 8, "label": "LOC"}]}] * 5
    assert read(records, log)[0].tags == ["O", "B-LOC", "O"] and not log


def test_spans_of_a_record():
    [sentence] = read([{"text": "It sleeps", "spans": None}])
    assert sentence.tags == ["O", "O"]
    [sentence] = read([{"text": "Rome sleeps", "spans": [[0, 4, "Geo Political"]]}])
    assert sentence.tags == ["B-Geo Political", "O"]
    with pytest.raises(
        UserError, match=r"data, line 1, key 'spans', item 1: a span labelled 'O', which is the tag"
    ):
        read([{"text": "Rome sleeps", "spans": [[0, 4, "LOC"], [5, 11, "O"]]}])
    with pytest.raises(UserError, match="no spans in keys"):
        read([{"text": "It sleeps"}])


@given(st.lists(texts_with_spans(), min_size=1, max_size=5))
def test_usual_spans_are_never_refused(drawn):
    records = [
        {"text": text, "spans": [write_span(text, *span, "characters", "exclusive") for span in spans]}
        for text, spans in drawn
    ]
    assume(all(record["text"] for record in records))
    log = []
    assert len(read(records, log)) == len(records) and not log
