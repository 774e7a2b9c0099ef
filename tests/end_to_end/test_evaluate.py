"""Evaluating a finished run on tagged data: the numbers of the run itself, and what is warned of and refused."""

import argparse
import json
import shutil

import pytest

from jaxft.cli import use
from jaxft.errors import UserError


def run(folder, data, **changed):
    names = ("output", "format", "word_column", "tag_column", "layout", "stride")
    flags = dict.fromkeys(names)
    return use.run_evaluate(argparse.Namespace(run=folder, data=str(data), **flags | changed))


@pytest.fixture
def copied_run(finished_run, tmp_path):
    """A run that may be changed."""
    return shutil.copytree(finished_run, tmp_path / "copied")


def test_the_runs_own_numbers_come_out_again(finished_run, corpus, command, tmp_path):
    folder = tmp_path / "out"
    flags = ["--run", finished_run, "--data", corpus["test"], "--output", folder]
    done = command("evaluate", *flags, cold=True)
    assert done.returncode == 0, done.stderr
    assert "0 words unscored" in done.stdout and "Entities, strict" in done.stdout
    assert done.stderr == ""
    actual, expected = (json.loads((f / "eval/test.json").read_text()) for f in (folder, finished_run))
    losses = [result["metrics"].pop("loss") for result in (actual, expected)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert actual == expected
    assert actual["metrics"]["entity_predicted"] > 10  # or there is nothing to compare
    for file in ("predictions/test.conll", "errors/test.tsv"):
        assert (folder / file).read_bytes() == (finished_run / file).read_bytes()


def test_other_data_goes_to_a_folder_of_its_own_and_never_over_anothers(copied_run, tmp_path, capsys):
    """Here the file has other columns, a type that the model does not know, and the name of the run's dev set."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    for folder in ("a", "b"):
        (tmp_path / folder / "dev.conll").write_text("B-CITY\t1\tOslo\nO\t2\tsleeps\n\nB-PER\t1\tAnna\n")
    before = (copied_run / "eval/dev.json").read_bytes()
    metrics = run(copied_run, tmp_path / "a/dev.conll", word_column=2, tag_column=0)
    assert metrics["entity_support/CITY"] == 1 and metrics["entity_recall/CITY"] == 0
    assert metrics["entity_support"] == 2
    assert "dev has labels that train has not; they count as missed: B-CITY 1" in capsys.readouterr().out
    where = copied_run / "evaluations/dev.conll"
    assert sorted(path.name for path in where.iterdir()) == ["errors", "eval", "predictions"]
    assert (copied_run / "eval/dev.json").read_bytes() == before
    with pytest.raises(
        UserError, match=r"is the evaluation of .*a/dev.conll, not of .*b/dev.conll; name another"
    ):
        run(copied_run, tmp_path / "b/dev.conll", word_column=2, tag_column=0)
    run(copied_run, tmp_path / "a/dev.conll", word_column=2, tag_column=0)  # the same again is fine


def test_without_the_training_data_it_says_what_is_lost(copied_run, corpus, capsys):
    config = json.loads((copied_run / "config.json").read_text())
    config["data"]["train"] = "gone.conll"
    (copied_run / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="config.json: it changed since the run wrote it"):
        run(copied_run, corpus["dev"])
    (copied_run / "model/checksums.json").unlink()
    run(copied_run, corpus["dev"])
    assert "warning: without the training data every entity counts as unseen (gone.conll: no such file" in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("plain.conll", "Peter\nleft\n", "plain.conll, line 1: 1 column, at least 2 expected"),
        ("text.jsonl", '{"text": "Peter"}\n', "text.jsonl, line 1: no spans"),
        ("empty.conll", "", "empty.conll: empty"),
        ("gone.conll", None, "gone.conll: no such file"),
    ],
)
def test_data_without_tags(finished_run, tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        run(finished_run, tmp_path / name)


def test_output_that_cannot_be_written(finished_run, corpus, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--output .*file/out: cannot be written"):
        run(finished_run, corpus["dev"], output=str(tmp_path / "file/out"))
