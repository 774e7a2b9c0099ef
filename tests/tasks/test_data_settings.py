"""Every task hands the settings of files to its reader, and the log to say what a file was taken for."""

import pytest

from jaxft.data.sources.formats import UNSET
from jaxft.errors import UserError
from jaxft.tasks import registry
from jaxft.tasks.settings import make_file_format
from jaxft.training.settings import settings_from_config

ROW = {
    **{"id": "q", "text": "Köln – 5 €", "label": "ä", "spans": '[{"start": 0, "end": 4, "label": "LOC"}]'},
    **{"question": "Wo?", "context": "Köln – 5 €", "answers": '[{"text": "Köln", "answer_start": 0}]'},
}


@pytest.mark.parametrize(
    ("task", "read_text"),
    [
        ("token_classification", lambda sentence: sentence.text),
        ("sequence_classification", lambda text: text.text),
        ("question_answering", lambda question: question.context),
        ("causal_lm", lambda document: document.text),
    ],
)
def test_every_task_reads_by_the_settings_of_files(tmp_path, task, read_text):
    rows = "\t".join(ROW) + "\n" + "\t".join(ROW.values()) + "\n"
    (tmp_path / "a.data").write_bytes(rows.encode("cp1252"))
    values = {"task": task, "data.format": "tsv", "data.encoding": "cp1252", "data.delimiter": "tab"}
    settings = settings_from_config(values)
    [example] = registry.make_data(settings).read("train", str(tmp_path / "a.data"), print)
    assert read_text(example) == "Köln – 5 €"
    (tmp_path / "a.csv").write_bytes(rows.encode("utf-16"))
    lines, settings = [], settings_from_config({"task": task})
    [example] = registry.make_data(settings).read("train", str(tmp_path / "a.csv"), lines.append)
    assert read_text(example) == "Köln – 5 €"
    assert lines[0] == (
        f"{tmp_path}/a.csv: read as CSV with tabs between values, in utf-16; set config.data.encoding or "
        "config.data.delimiter if it is not"
    )
    with pytest.raises(UserError, match="config.data.encoding='cp999'.*an encoding that Python knows"):
        settings_from_config({"task": task, "data.encoding": "cp999"})
    with pytest.raises(UserError, match="config.data.delimiter='ab'.*one character, tab or auto"):
        settings_from_config({"task": task, "data.delimiter": "ab"})


def test_settings_of_files_that_are_not_set_are_those_of_readers():
    assert make_file_format(settings_from_config({"task": "causal_lm"}).data) == UNSET
