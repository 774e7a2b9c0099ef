"""Bad and odd input through the command: a mistake is one clear line and exit code 2, oddity is trained on."""

import json
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxft.cli import train
from jaxft.data.batching.loader import Loader
from jaxft.errors import EXIT_NON_FINITE, EXIT_USER_ERROR
from jaxft.io.files import write_json
from jaxft.training import loop


@pytest.fixture
def fails(tiny_flags, tmp_path, capsys):
    """Runs `jaxft.main` in this process with further flags; checks the exit, gives the line on stderr.

    All in one workdir: a start that failed before it trained must not stand in the way of the next.
    """

    def run(*flags, workdir=tmp_path / "run", code=EXIT_USER_ERROR) -> str:
        with pytest.raises(SystemExit) as exit:
            train.train([*tiny_flags, "--workdir", str(workdir), *(f"--config.{flag}" for flag in flags)])
        lines = capsys.readouterr().err.splitlines()
        assert exit.value.code == code, lines
        assert len(lines) == 1 and lines[0].startswith("error: "), lines
        return lines[0]

    return run


def written(folder: pathlib.Path, text: str | bytes, name="data.conll") -> pathlib.Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_the_command_itself_fails_with_one_line(command, tiny_flags, tmp_path):
    """Once through a process of its own: exit code, nothing but the line on stderr, no trace of a stack."""
    flags = [*tiny_flags, "--workdir", tmp_path / "run", "--config.data.train=nowhere.conll"]
    done = command("train", *flags, cold=True)
    assert done.returncode == EXIT_USER_ERROR
    assert done.stderr.startswith("error: nowhere.conll: no such file (in ") and done.stderr.count("\n") == 1
    assert "Traceback" not in done.stdout


@pytest.mark.parametrize(
    "text, message",
    [
        ("", ": empty, it holds no sentence; name a source that has some"),
        ("\n \n\t\n", ": empty, it holds no sentence"),
        (
            "EU\tB-ORG\nrejects\n",
            "data.conll, line 2: 1 column, at least 2 expected, in 'rejects'; write word and tag",
        ),
        ("EU\tB-ORG\nrejects\tO-X\n", "the tag 'O-X' is not one of the scheme"),
        ("EU\tB-ORG\n\nNews\tQ-ORG\n", "data.conll, line 3"),
        (
            b"EU\tB-ORG\n\xff\tO\n",
            "data.conll, line 2, byte 1 of the line: 0xff is not UTF-8; set config.data.encoding",
        ),
    ],
)
def test_training_data_that_cannot_be_read(fails, tmp_path, text, message):
    assert message in fails(f"data.train={written(tmp_path, text)}")


def test_settings_and_flags(fails, command, tmp_path):
    assert (
        "--config.optim.lrr=1: there is no setting config.optim.lrr; did you mean config.optim.lr?"
        in fails("optim.lrr=1")
    )
    assert "config.data.max_length=65, but" in (line := fails("data.max_length=65"))
    assert "has 64 positions; set it to 64 or less" in line
    assert "config.eval.metric='f1' was not measured; measured: entity_f1," in fails(
        "eval.metric=f1", "train.steps=20"
    )
    assert "config.loss.class_weights names 'B-XYZ', which is no label" in fails(
        "loss.class_weights=(('B-XYZ', 2.0),)"
    )
    assert "config.batch.rows" in fails("batch.rows=6", "batch.accumulate=4")


def test_a_single_sentence_without_a_dev_set(fails, tmp_path):
    path = written(tmp_path, "Ann\tB-PER\nslept\tO\n")
    assert "1 sentence in the training data: none can be split off" in fails(
        f"data.train={path}", "data.dev=none"
    )


def test_checkpoints_that_do_not_fit(fails, tiny_bert, tmp_path):
    other = tmp_path / "bert"

    def changed(**values):
        shutil.rmtree(other, ignore_errors=True)
        shutil.copytree(tiny_bert, other)
        config = json.loads((other / "config.json").read_text())
        (other / "config.json").write_text(json.dumps(config | values))
        return f"model.checkpoint={other}"

    assert "model_type is 't5'" in (line := fails(changed(model_type="t5"))) and "'roberta'" in line
    assert str(other) in line
    assert "model_type is ['bert']" in fails(changed(model_type=["bert"]))
    assert "relative_key" in fails(changed(position_embedding_type="relative_key"))
    checkpoint = changed()
    tensors = load_file(other / "model.safetensors")
    name = "encoder.layer.1.output.dense.weight"
    for edited, words in (
        ({k: v for k, v in tensors.items() if k != name}, [name]),
        (tensors | {"encoder.adapter.weight": tensors[name]}, ["encoder.adapter.weight"]),
        (tensors | {name: tensors[name].T.copy()}, [name, "(32, 64)", "(64, 32)"]),
    ):
        save_file(edited, other / "model.safetensors")
        line = fails(checkpoint)
        assert all(word in line for word in words), line
    (other / "model.safetensors").write_bytes((tiny_bert / "model.safetensors").read_bytes()[:1000])
    assert str(other) in fails(checkpoint)
    (other / "config.json").write_text("{")
    assert "config.json" in fails(checkpoint)


def test_an_unreachable_hub_says_how_to_go_on_offline(fails):
    line = fails("model.checkpoint=google-bert/bert-base-cased")
    assert "google-bert/bert-base-cased" in line and "To go on offline" in line
    line = fails("data.train=hub:nobody/nothing/train")
    assert "hub" in line and "offline" in line.lower()


def test_workdirs(fails, tmp_path, finished_run):
    file = written(tmp_path, "x", "file")
    assert f"--workdir {file} cannot be written" in fails(workdir=file)
    assert "cannot be written" in fails(workdir=file / "run")
    assert "cannot be written" in fails(workdir=pathlib.Path("/proc/run"))
    assert f"--workdir {tmp_path} holds files but no jaxft run" in fails(workdir=tmp_path)
    line = fails("optim.lr=0.5", "batch.rows=8", workdir=finished_run)
    assert "config.batch.rows was 4, is 8; config.optim.lr was 0.01, is 0.5. Name a new folder" in line


def test_a_workdir_where_another_process_trains(fails, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    written(run, "{}", "config.json")
    holds = "import fcntl, sys; f = open(sys.argv[1], 'a'); fcntl.lockf(f, fcntl.LOCK_EX); print(); input()"
    program = [sys.executable, "-c", holds, str(run / "lock")]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        line = fails()
        assert f"--workdir {run}: another process trains in it; wait for its end" in line
        other.stdin.close()


def test_a_workdir_whose_claim_was_cut_short_is_taken(fails, tmp_path):
    (tmp_path / "run").mkdir()
    written(tmp_path / "run", "{", "config.json.tmp")
    assert "nowhere.conll" in fails("data.train=nowhere.conll")
    assert json.loads((tmp_path / "run/config.json").read_text())["seed"] == 0


ODD = ["👩‍👩‍👧", "\u200b", "\x07", "\u202e", "e\u0301", "ﷺ", "\ufffd", "\u00ad"]  # fmt: skip


def test_odd_text_trains_and_is_scored_to_the_last_word(command, tiny_flags, tmp_path):
    """5,000 words in a sentence, characters that tokenize to nothing, labels unseen in train, repeated sentences."""
    long = "".join(f"word{i % 7}\t{'B-PER' if i % 50 == 0 else 'O'}\n" for i in range(5000))
    odd = "".join(f"{word}\tB-PER\n" for word in ODD)
    train = written(tmp_path, f"{long}\n{odd}\nAnn\tB-PER\nslept\tO\n", "train.conll")
    dev = written(tmp_path, f"{long}\n{odd}\nRome\tB-PLANET\nis\tO\nfar\tI-PLANET\n", "dev.conll")
    test = written(tmp_path, "nothing\tO\nhere\tO\n", "test.conll")
    workdir = tmp_path / "run"
    flags = {"data.train": train, "data.dev": dev, "data.test": test, "train.steps": 12}
    flags |= {"eval.every_steps": 12, "checkpoint.every_steps": 12, "optim.lr": 1e-3}
    done = command(
        "train", *tiny_flags, "--workdir", workdir, *(f"--config.{k}={v}" for k, v in flags.items())
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "warning: dev has labels that train has not; they count as missed: " in done.stdout
    assert "B-PLANET" in done.stdout
    assert "warning: 2 of 3 sentences of dev stand word for word in train" in done.stdout
    assert f"warning: test ({test}) holds no entities" in done.stdout
    words = 5000 + len(ODD)
    assert (
        f"3 sentences, {words + 3:,} words" in (workdir / "eval/dev.txt").read_text()
    )  # an unscored one is an error
    summary = json.loads((workdir / "summary.json").read_text())
    assert summary["late_compiles"] == 0
    assert summary["dev"]["entity_recall"] < 1 and summary["dev"]["entity_recall/PLANET"] == 0
    for name, source in (("dev", dev), ("test", test)):
        lines = [x.split("\t") for x in (workdir / f"predictions/{name}.conll").read_text().split("\n") if x]
        gold = [x.split("\t") for x in source.read_bytes().decode().split("\n") if x]
        assert [line[0] for line in lines] == [line[0] for line in gold]


def test_one_sentence_without_entities_trains(command, tiny_flags, tmp_path):
    path = written(tmp_path, "nothing\tO\nhere\tO\n")
    flags = {
        "data.train": path,
        "data.dev": path,
        "data.test": "none",
        "train.steps": 3,
        "checkpoint.every_steps": 3,
    }
    done = command(
        "train",
        *tiny_flags,
        "--workdir",
        tmp_path / "run",
        *(f"--config.{k}={v}" for k, v in flags.items()),
        cold=True,  # imports what training needs, in its order
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"warning: train ({path}) holds no entities; is config.data.tag_column=-1 right?" in done.stdout
    assert "warning: 1 of 1 sentences of dev stand word for word in train" in done.stdout
    assert json.loads((tmp_path / "run/summary.json").read_text())["dev"]["token_accuracy"] == 1


def test_a_folder_in_the_place_of_a_file_is_named(fails, tmp_path, monkeypatch):
    place = tmp_path / "summary.json"
    place.mkdir()
    monkeypatch.setattr(loop, "train", lambda *_, **__: place.open("w"))
    line = fails()
    assert (
        f"error: --workdir {tmp_path / 'run'}: " in line and f"{str(place)!r}; move away what is in" in line
    )
    monkeypatch.setattr(loop, "train", lambda *_, **__: write_json(place, {}))
    assert f"error: {place}: a folder, where the run writes a file; move it away" in fails()


def test_a_loss_that_is_not_finite_stops_the_run(fails, tmp_path, monkeypatch):
    """The step is named, its batch kept, and the last good checkpoint stays."""
    original = Loader.batch

    def poisoned(self, step):
        batch = original(self, step)
        if step == 15:
            batch.arrays["weights"][2, 3] = np.nan
        return batch

    monkeypatch.setattr(Loader, "batch", poisoned)
    line = fails(code=EXIT_NON_FINITE)
    batch = tmp_path / "run/non_finite_step_16.npz"
    assert f"error: step 16: loss nan, gradient norm nan; the batch is in {batch}" in line
    assert f"the last good checkpoint is 14 in {tmp_path / 'run/checkpoints'}; lower config.optim.lr" in line
    with np.load(batch) as arrays:
        assert arrays["input_ids"].shape == (4, 64) and np.isnan(arrays["weights"][2, 3])
        assert (arrays["windows"] >= 0).sum() > 4
    assert [p.name for p in (tmp_path / "run/checkpoints").iterdir()] == ["14"]
