"""Tables and JSON documents give the same records however they are laid out, and what would be lost is named."""

import json

import pandas
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxft.data.sources import files, formats
from jaxft.data.sources.formats import TEXTS, FileFormat, resolve_source
from jaxft.data.sources.records import parquet
from jaxft.data.sources.records.reader import read_records
from jaxft.errors import UserError


def read(path, format=formats.UNSET, log=files.log_nothing):
    [source] = resolve_source(str(path), TEXTS, format, log, keys=("text", "label"))
    return [record for _, _, record in read_records(source, TEXTS, log)[0]]


VALUE = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    st.integers(-9, 9),
    st.none(),
    st.booleans(),
)
RECORDS = st.lists(
    st.fixed_dictionaries({"text": st.text('ab{}[]":,é\n', max_size=8), "label": VALUE}),
    min_size=2,
    max_size=4,
)


@given(RECORDS, st.sampled_from([None, 1]), st.sampled_from(["json", "jsonl", "txt", "csv"]))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_layout_of_json_gives_the_same_records(tmp_path, records, indent, suffix):
    """The layouts are those of pandas' `to_json`, of `datasets`' `to_dict` and of files with a list under a name."""
    columns, rows = ["text", "label"], [[record[key] for key in ("text", "label")] for record in records]
    by_row = {str(number): record for number, record in enumerate(records)}
    path = tmp_path / f"a.{suffix}"
    layouts = {
        "": records,
        "the records are the list under 'data'": {"version": "1", "data": records},
        "a table in pandas' orientation 'split'": {
            "columns": columns,
            "index": [*range(len(rows))],
            "data": rows,
        },
        "a table in pandas' orientation 'table'": {"schema": {"fields": []}, "data": records},
        "a table in pandas' orientation 'index'": by_row,
        "a table in pandas' orientation 'columns'": {
            key: {number: record[key] for number, record in by_row.items()} for key in columns
        },
    }
    if indent or suffix == "json":
        layouts["the records are the list under 'train'"] = {"train": records}
    for words, document in layouts.items():
        path.write_text(json.dumps(document, indent=indent, ensure_ascii=False), encoding="utf-8")
        lines = []
        if words.endswith("'train'") and not indent:
            assert read(path, FileFormat("json"), lines.append) == records  # a line alone may be a record
        else:
            assert read(path, log=lines.append) == records
        assert words == "" or lines[-1] == f"{path}: {words}"
    path.write_text("\n".join(map(json.dumps, records)))
    assert read(path) == records


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        (pa.array([b"a", b"\xff"], pa.binary()).view(pa.string()), "invalid start byte"),
        (pa.array([0, 2**62], pa.timestamp("us")), "out of range"),
        (pa.array([0, 2**31 - 1], pa.int32()).cast(pa.date32()), "magnitude"),
    ],
)
def test_a_value_that_python_cannot_hold_is_named(tmp_path, column, reason):
    pyarrow.parquet.write_table(pa.table({"text": ["a", "b"], "when": column}), tmp_path / "a.parquet")
    with pytest.raises(
        UserError, match=f"a.parquet, row 2, key 'when': a value that cannot be read .*{reason}"
    ):
        read(tmp_path / "a.parquet")


def test_long_rows_of_parquet_are_read_few_at_a_time(tmp_path, monkeypatch):
    texts = [f"{number:4}" * 100 for number in range(50)]
    pyarrow.parquet.write_table(pa.table({"text": texts}), tmp_path / "a.parquet")
    make_records, lengths = parquet._make_records, []

    def count_records(batch, *where):
        lengths.append(len(batch))
        return make_records(batch, *where)

    monkeypatch.setattr(parquet, "_make_records", count_records)
    monkeypatch.setattr(parquet, "BATCH_BYTES", 2000)
    assert [record["text"] for record in read(tmp_path / "a.parquet")] == texts
    assert 1 <= max(lengths) <= 5


@pytest.mark.parametrize(
    "features", ["[1]", "{", '{"info": {"features": {"text": 3}}}', '{"info": {"features": 3}}']
)
def test_features_of_another_shape_are_named(tmp_path, features):
    """Other data under their name are not features."""
    table = pa.table({"text": ["a"], "label": ["b"]}).replace_schema_metadata({"huggingface": features})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    if features == "[1]":
        assert read(tmp_path / "a.parquet") == [{"text": "a", "label": "b"}]
        return
    with pytest.raises(
        UserError, match="a.parquet: the features that `datasets` stored in it cannot be read"
    ):
        read(tmp_path / "a.parquet")


@pytest.mark.parametrize("orientation", ["records", "columns", "split", "index", "table", "values"])
def test_what_pandas_writes_is_read(tmp_path, orientation):
    frame = pandas.DataFrame({"text": ["a, b", "c"], "label": ["x", "é"]})
    frame.to_json(tmp_path / "a.json", orient=orientation)
    names = {"text": "0", "label": "1"} if orientation == "values" else {"text": "text", "label": "label"}
    expected = [{names[key]: value for key, value in row.items()} for row in frame.to_dict("records")]
    assert [{key: row[key] for key in names.values()} for row in read(tmp_path / "a.json")] == expected


def test_lists_of_values_have_a_key_each(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"text": ["a", "b"], "label": ["x", "y"]}, indent=1))
    assert read(tmp_path / "a.json") == [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}]


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"a": [{"text": "x"}], "b": []}, r"0 values under 'b' and 1 under 'a', or of other rows"),
        (
            {"n": 1, "rows": [{}]},
            r"the records are not found in a JSON object with the keys 'n', 'rows'; .* 'rows'",
        ),
        (
            {"columns": ["a"], "data": [[1, 2]]},
            r"a.json, data\[0\]: 2 values where a list of 1 values was expected",
        ),
        ({"0": {"0": "x"}, "1": {"0": "y"}}, r"do not tell rows from columns; .*to_json\(orient='records'\)"),
        (
            {"text": {"0": "x"}, "label": {"1": "y"}},
            "1 values under 'label' and 1 under 'text', or of other rows",
        ),
        ([1], "a.json, record 1: a number where an object was expected"),
        ("x", "a.json: a string; expected an array of records"),
    ],
)
def test_documents_without_records_are_named(tmp_path, document, message):
    (tmp_path / "a.json").write_text(json.dumps(document, indent=1))
    with pytest.raises(UserError, match=message):
        read(tmp_path / "a.json", FileFormat("json"))


def test_no_value_is_lost_where_a_name_stands_twice(tmp_path):
    (tmp_path / "a.csv").write_text("text,label,text\na,x,b\n")
    with pytest.raises(
        UserError, match=r"a.csv, line 1: columns 1 and 3 have the name 'text', so that one would be lost"
    ):
        read(tmp_path / "a.csv")
    (tmp_path / "b.csv").write_text("text,label,,\na,x,,\n")  # as Excel writes empty columns
    assert read(tmp_path / "b.csv") == [{"text": "a", "label": "x", "": ""}]
    for name in ("a.jsonl", "a.json"):
        (tmp_path / name).write_text(
            '{"text": "a", "label": "x"}\n{"text": "a", "spans": [{"n": 1, "n": 2}]}'
        )
        with pytest.raises(UserError, match=f"{name}, line 2: JSON that cannot be read .*the key 'n' twice"):
            read(tmp_path / name)
    table = pa.table([pa.array(["a"])] * 2, names=["text", "text"])
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(UserError, match="a.parquet: columns 1 and 2 have the name 'text'"):
        read(tmp_path / "a.parquet")


def test_headers_of_joined_files_are_no_records(tmp_path):
    content = "text,label\na,x\n\ufefftext,label\nb,text\nlabel,text\ntext,label\n"
    (tmp_path / "a.csv").write_text(content, encoding="utf-8")
    lines = []
    records = read(tmp_path / "a.csv", log=lines.append)
    assert [tuple(record.values()) for record in records] == [("a", "x"), ("b", "text"), ("label", "text")]
    assert lines == [
        f"warning: {tmp_path}/a.csv, line 3: the header again, as in joined files; such rows are left out"
    ]
    (tmp_path / "b.csv").write_text("text\ntext\n")  # a column alone may hold its name
    assert read(tmp_path / "b.csv") == [{"text": "text"}]


def test_quotes_after_the_beginning_of_a_table_are_noticed(tmp_path):
    rows = "".join(f"{number} {'x' * 60}\ta\n" for number in range(2000))  # more than is read to decide
    (tmp_path / "a.tsv").write_text(f'text\tlabel\n{rows}"say ""x"""\tb\n')
    lines = []
    assert read(tmp_path / "a.tsv", log=lines.append)[-1] == {"text": '"say ""x"""', "label": "b"}
    [line] = lines
    assert (
        "a.tsv, line 2002: quotes around a value with doubled ones" in line
        and "config.data.format=csv" in line
    )


def test_a_parquet_file_that_is_none_is_named(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"\x1f\x8b\x08")
    with pytest.raises(UserError, match="a.parquet: no Parquet file, but compressed with gzip"):
        read(tmp_path / "a.parquet")
    pandas.DataFrame({"text": ["a"], "label": ["x"]}).to_parquet(tmp_path / "a.csv")
    assert read(tmp_path / "a.csv") == [{"text": "a", "label": "x"}]
    frame = pandas.DataFrame({"text": [f"good film {number}" for number in range(3000)], "label": "x"})
    frame.to_parquet(tmp_path / "b.parquet")
    content = bytearray((tmp_path / "b.parquet").read_bytes())
    content[4:200] = b"\xff" * 196
    (tmp_path / "b.parquet").write_bytes(content)
    with pytest.raises(UserError, match="b.parquet: damaged after row 0 .*; copy or write the file again"):
        read(tmp_path / "b.parquet")


@pytest.mark.parametrize(
    ("format", "header", "line"),
    [
        ("csv", b"text,label\n", b"a,x\n"),
        ("tsv", b"text\tlabel\n", b"a\tx\n"),
        ("jsonl", b"", b'{"text": "a"}\n'),
    ],
)
def test_a_record_of_a_stream_waits_for_no_later_line(format, header, line):
    lines = iter([*filter(None, [header]), *[line] * 9])
    stream = type("Stream", (), {"name": "<stdin>", "__iter__": lambda self: lines})()
    [source] = resolve_source(stream, TEXTS, FileFormat(format), print)
    records, _ = read_records(source, TEXTS, print)
    assert next(records)[2]["text"] == "a" and len(list(lines)) == 8
