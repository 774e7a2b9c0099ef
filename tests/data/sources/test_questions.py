"""Questions are the same from SQuAD's JSON, JSON lines and tables, and mistakes in them are named."""

import io
import json

import datasets
import pytest

from jaxft.data.sources.formats import FileFormat
from jaxft.data.sources.questions import Answer, read_questions
from jaxft.errors import UserError

CONTEXT = "Mr Café lives in Oslo. He came from Rome 😀 in 1999."


def qa(**changed):
    answers = [{"text": "Oslo", "answer_start": 17}, {"text": "in Oslo", "answer_start": 14}]
    return {"id": "q1", "question": "Where does he live?", "answers": answers} | changed


def document(*qas, context=CONTEXT):
    return {
        "version": "1.1",
        "data": [{"title": "T", "paragraphs": [{"context": context, "qas": list(qas)}]}],
    }


@pytest.fixture
def read(tmp_path):
    """Returns a function that writes a value, or text without change, to a file of a name and reads that."""

    def write_and_read(content, name="train.json", **options):
        path = tmp_path / name
        path.write_text(
            content if isinstance(content, str) else json.dumps(content, indent=1), encoding="utf-8"
        )
        return list(read_questions(str(path), **options))

    return write_and_read


def test_both_versions_and_all_formats_give_the_same(read, tmp_path):
    none = {
        "id": "q2",
        "question": "Who is he?",
        "is_impossible": True,
        "plausible_answers": [],
        "answers": [],
    }
    first, second = expected = read(document(qa(is_impossible=False), none))
    assert first.answers == (Answer("Oslo", 17), Answer("in Oslo", 14)) and second.answers == ()
    assert (first.id, first.question, first.context) == ("q1", "Where does he live?", CONTEXT)
    assert second.origin == f"{tmp_path}/train.json:data[0].paragraphs[0].qas[1]"
    flat = [{"context": CONTEXT} | qa(), {"context": CONTEXT} | none]
    columns = {"text": ["Oslo", "in Oslo"], "answer_start": [17, 14]}  # as `datasets` has them
    table = [{**flat[0], "answers": columns}, {**flat[1], "answers": {"text": [], "answer_start": []}}]
    for records, name in ((flat, "a.jsonl"), (table, "b.jsonl"), (flat, "lines.json")):
        lines = read("\n\n".join(map(json.dumps, records)), name)
        assert [(q.id, q.question, q.context, q.answers) for q in lines] == [
            (q.id, q.question, q.context, q.answers) for q in expected
        ]
        assert lines[1].origin == f"{tmp_path}/{name}:3"
    one_line = read(json.dumps(document(qa())), "one.json")
    assert one_line[0].answers == first.answers


def test_tables_and_the_hub_give_the_same_and_can_be_filtered(read, tmp_path, monkeypatch):
    """The table has the features of the hub's squad_v2, and a field to filter by."""
    none = {"id": "q2", "question": "Who is he?", "answers": []}
    expected = [(q.id, q.question, q.context, q.answers) for q in read(document(qa(), none))]
    columns = [{"text": ["Oslo", "in Oslo"], "answer_start": [17, 14]}, {"text": [], "answer_start": []}]
    rows = [
        {"context": CONTEXT, "fold": fold} | question | {"answers": answers}
        for fold, (question, answers) in enumerate(zip((qa(), none), columns, strict=True))
    ]
    answers = {"text": datasets.Value("string"), "answer_start": datasets.Value("int32")}
    features = {name: datasets.Value("string") for name in ("id", "question", "context")}
    features |= {"fold": datasets.Value("int32"), "answers": datasets.Sequence(answers)}
    table = datasets.Dataset.from_list(rows, features=datasets.Features(features))
    table.to_parquet(tmp_path / "a.parquet")
    calls = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *names, **more: calls.append((names, more)) or table)
    hub = "hub:some/set:plain@main/train"
    for source, format in ((f"{tmp_path}/a.parquet", "auto"), (hub, "auto"), (hub[4:], "hub")):
        questions = list(read_questions(source, format=FileFormat(format)))
        assert [(q.id, q.question, q.context, q.answers) for q in questions] == expected
        assert list(read_questions(f"{source}?fold=1", format=FileFormat(format))) == questions[1:]
        assert list(read_questions(f"{source}?fold!=1&id=q1", format=FileFormat(format))) == questions[:1]
    assert questions[1].origin == f"{hub}:2"
    assert calls == [(("some/set", "plain"), {"revision": "main", "split": "train"})] * 6


def as_lists(record):
    """Returns a question with its answers as `datasets` has them."""
    answers = record["answers"]
    lists = {key: [answer[key] for answer in answers] for key in ("text", "answer_start")}
    return record | {"answers": lists}


@pytest.mark.parametrize("indent", [None, 1])
def test_documents_are_recognised_by_their_content(read, tmp_path, indent):
    """Questions stand in SQuAD's articles, in simpletransformers' contexts, or as `run_qa.py` and others write them."""
    none = {"id": 2, "question": "Who is he?", "is_impossible": True, "answers": []}
    empty = none | {"answers": [{"text": "", "answer_start": 0}]}  # as simpletransformers may write none
    expected = [(q.id, q.question, q.context, q.answers) for q in read(document(qa(), none))]
    flat = [{"context": CONTEXT, "title": "T"} | record for record in (qa(), none)]
    for content, paths in (
        ({"version": "0.1", "data": [as_lists(record) for record in flat]}, ["1", "2"]),  # run_qa.py
        ([{"context": CONTEXT, "qas": [qa(), empty]}], ["1.qas[0]", "1.qas[1]"]),  # simpletransformers
        ({"data": [{"context": CONTEXT, "qas": [qa(), none]}]}, ["1.qas[0]", "1.qas[1]"]),
        (document(qa(), none)["data"], [f"data[0].paragraphs[0].qas[{n}]" for n in range(2)]),
        (flat, ["1", "2"]),
        (
            {"columns": list(flat[0]), "data": [[record.get(key) for key in flat[0]] for record in flat]},
            ["1", "2"],
        ),
    ):
        text, lines = json.dumps(content, indent=indent), []
        questions = read(text, log=lines.append)
        assert [(q.id, q.question, q.context, q.answers) for q in questions] == expected
        assert [q.origin.removeprefix(f"{tmp_path}/train.json:") for q in questions] == paths
        log = "".join(lines)
        assert ("SQuAD's JSON" in log, "questions grouped by context" in log) == (
            "paragraphs" in text,
            "qas" in text and "paragraphs" not in text,
        )
    [question] = read([{"context": CONTEXT, "qas": [{"id": "0", "question": "Who?"}]}], answered=False)
    assert (question.id, question.context, question.answers) == ("0", CONTEXT, None)


def test_answers_in_a_table_are_json_or_python(read):
    answers = as_lists(qa())["answers"]
    rows = "".join(
        f'"{CONTEXT}",Where?,"{text.replace(chr(34), chr(34) * 2)}"\n'
        for text in (
            json.dumps(answers),
            str(answers),
            str(qa()["answers"]),
            str({"text": "Oslo", "answer_start": 17}),
        )
    )
    questions = read(f"context,question,answers\n{rows}", "a.csv")
    assert [len(q.answers) for q in questions] == [2, 2, 2, 1]
    assert {q.answers[0] for q in questions} == {Answer("Oslo", 17)}
    with pytest.raises(
        UserError, match="line 2, key 'answers': a string where a list of answers was expected"
    ):
        read(f"context,question,answers\n{CONTEXT},Where?,Oslo\n", "b.csv")


def test_keys_can_be_renamed_and_ids_and_answers_be_missing(read, tmp_path):
    line = json.dumps({"q": "Where?", "passage": CONTEXT, "answers": [{"text": "Rome", "answer_start": 36}]})
    [question] = read(line, "a.jsonl", columns={"question": "q", "context": "passage"})
    assert (
        question.question == "Where?" and question.id == f"{tmp_path}/a.jsonl:1"
    )  # without an id of its own
    [question] = read(
        '{"id": 7, "question": "Where?", "context": "x", "answers": "not looked at"}',
        "b.jsonl",
        answered=False,
    )
    assert question.answers is None and question.id == "7"
    [question] = read(document({"id": "a", "question": "Who?"}), answered=False)
    assert question.answers is None
    stream = io.BytesIO(b'{"question": "Where?", "context": "here"}\n')
    stream.name = "<stdin>"
    assert [q.context for q in read_questions(stream, format=FileFormat("jsonl"), answered=False)] == ["here"]


PLACE = r"train\.json, data\[0\]\.paragraphs\[0\]"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            '{"data": [\n  {"title" "x"}]}',
            r"train\.json, line 2, column 12: not valid JSON \(Expecting ':' delimiter\)",
        ),
        (
            "[1]",
            r"train\.json, data\[0\]: a number where an object was expected; SQuAD's JSON is data > par",
        ),
        (
            {"version": "1", "dataset": []},
            r"train\.json: no key 'data' in \['dataset', 'version'\]",
        ),
        ({"data": {}}, r"train\.json, key 'data': an object where a list was expected"),
        ({"data": []}, r"train\.json: empty, it holds no question; name a source that has some"),
        ({"data": [{"title": "x"}]}, r"train\.json, data\[0\]: no key 'paragraphs' in \['title'\]"),
        (document({"id": "a"}), PLACE + r"\.qas\[0\]: no key 'question' in \['context', 'id'\]"),
        (
            document(qa(question=" ")),
            PLACE + r"\.qas\[0\], key 'question': an empty question; leave this question out",
        ),
        (document(qa(), context="\n"), r"key 'context': an empty context"),
        (document(qa(context=5)), r"qas\[0\], key 'context': a number where a string was expected"),
        (document(qa(id=["a"])), r"key 'id': a list where a string was expected"),
        (document(qa(id="q\ud800")), r"key 'id': half a surrogate pair at character 1"),
        (
            document({"id": "a", "question": "b"}),
            r"no key 'answers' in .* a question without an answer has \"answers\": \[\]",
        ),
        (document(qa(answers="Oslo")), r"key 'answers': a string where a list of answers was expected"),
        (document(qa(answers=["Oslo"])), r"item 0: a string where an object with text and answer_start"),
        (
            document(qa(answers=[{"text": "Oslo"}])),
            r"item 0: no key 'answer_start' in \['text'\]; an answer has text",
        ),
        (
            document(qa(answers=[{"text": "", "answer_start": 0}])),
            r"item 0: an empty text; a question without",
        ),
        (document(qa(answers=[{"text": "Oslo", "answer_start": "17"}])), r"answer_start is a string"),
        (
            document(qa(answers=[{"text": "Oslo", "answer_start": 18}])),
            PLACE
            + r"\.qas\[0\], key 'answers', item 0: at answer_start 18 the context has 'slo\.', not 'Oslo'; "
            r"it first stands at 17 \(characters are counted from 0, not bytes\)",
        ),
        (
            document(qa(answers=[{"text": "Bern", "answer_start": -1}])),
            "not 'Bern'; the context does not hold it",
        ),
        (document(qa(is_impossible=True)), "is_impossible is true, but there are answers"),
        (document(qa(is_impossible=False, answers=[])), "is_impossible is false, but there are no answers"),
        (document(qa(answers={"text": ["a"], "answer_start": []})), "expected two lists of one length"),
    ],
)
def test_mistakes_are_named_with_their_place(read, content, message):
    with pytest.raises(UserError, match=message):
        read(content, format=FileFormat("squad"))


@pytest.mark.parametrize(
    ("content", "name", "options", "message"),
    [
        (
            "{}",
            "a.jsonl",
            {},
            r"a\.jsonl, line 1: no key 'question' in \[\]; name .* config.data.columns, \(\('question'",
        ),
        ("{", "a.jsonl", {}, r"a\.jsonl, line 1, column 2: not valid JSON"),
        ("", "a.jsonl", {}, r"a\.jsonl: empty, it holds no question"),
        (
            "",
            "a.txt",
            {},
            r"neither its suffix nor its content tells its format; set config.data.format to squad",
        ),
        (
            "",
            "a.csv",
            {"format": FileFormat("conll")},
            "format='conll' is not for questions; expected auto, squad",
        ),
        (
            "",
            "a.jsonl",
            {"columns": {"text": "x"}},
            r"config.data.columns: text unknown; expected id, question",
        ),
    ],
)
def test_mistakes_in_records_are_named(read, content, name, options, message):
    with pytest.raises(UserError, match=message):
        read(content, name, **options)


def test_missing_sources_are_named(tmp_path):
    with pytest.raises(UserError, match=r"no such file .*expected a path, demo:qa/train, or hub:"):
        read_questions(str(tmp_path / "none.json"))
    with pytest.raises(UserError, match="demo:qa/valid: no such corpus of questions; expected demo:qa/train"):
        read_questions("demo:qa/valid")
