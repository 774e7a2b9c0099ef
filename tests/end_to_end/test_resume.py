"""A run that is killed, stopped or damaged and started again ends bit for bit as one that was not."""

import json
import pathlib
import re
import shutil
import signal
import subprocess

import fsspec
import pytest

from jaxft.cli import use
from jaxft.errors import EXIT_PREEMPTED, EXIT_USER_ERROR, UserError
from jaxft.export.writer import export_run
from jaxft.inference.evaluate import evaluate_run
from jaxft.inference.model import open_model
from jaxft.training.loop import train
from jaxft.training.run_folder.finished import describe_disk_use, folder_bytes
from jaxft.training.run_folder.remote_folder import local_folder
from jaxft.training.run_folder.workdir import open_run
from jaxft.training.settings import load_settings
from tests.interruption import assert_same_run, newest


def in_process(flags, workdir):
    """The run of `flags`, up to the error that it is expected to raise before anything is compiled."""
    return train(load_settings(flags[1], flags[2:]), workdir)


# The command, with a signal to itself where `when` says so, before or after a function's call: exact moments,
# which watching from outside would miss on a quick or a busy machine.
DRIVER = """
import ctypes, os, signal, sys
from jaxft.training import evaluation
from jaxft.cli import train
from jaxft.training.run_folder.checkpoint import RunCheckpoints
from jaxft.data.batching.loader import Loader
from jaxft.training.log.run_log import RunLog
from jaxft.tasks.token_classification.evaluation import TagEvaluator

def on(owner, name, when, *, after=False, sent=signal.SIGKILL):
    original = getattr(owner, name)
    def watched(*args, **options):
        if not after and when(*args):
            os.kill(os.getpid(), sent)
        result = original(*args, **options)
        if after and when(*args):
            os.kill(os.getpid(), sent)
        return result
    setattr(owner, name, watched)

def heed_permissions():  # takes from root the right to write where permissions forbid it
    if sys.platform == "linux":
        version_3, libc, sets = 0x20080522, ctypes.CDLL(None), (ctypes.c_uint32 * 6)()
        this_thread = (ctypes.c_uint32 * 2)(version_3, 0)
        libc.capget(this_thread, sets)
        sets[0] &= ~(1 << 1)  # of the effective ones CAP_DAC_OVERRIDE
        libc.capset(this_thread, sets)

heed_permissions()
exec(sys.argv.pop(1))
train.train(sys.argv[1:])
"""

SAVED = (
    'on(RunCheckpoints, "save", lambda self, step, *_: self.folder.name == "{}" and step == {}, after=True)'
)
WRITTEN = 'on(RunLog, "write", lambda _, step, kind, *__: (step, kind) == (60, "dev"))'
MOMENTS = (
    ("after some steps, before the first checkpoint", 'on(Loader, "batch", lambda _, step: step == 5)'),
    ("while a checkpoint is being saved", SAVED.format("checkpoints", 28)),
    ("while the best weights are being saved", SAVED.format("best", 40)),
    ("past the first epoch, between evaluation and its line", WRITTEN),
    ("in an evaluation", 'on(evaluation, "_fetch", lambda *_: True)'),
    ("when test is written", 'on(TagEvaluator, "write_evaluation", lambda *a: a[2].name == "test")'),
)


@pytest.fixture(scope="session")
def start(tiny_flags, environment, python):
    """Starts the tiny run, which sends itself a signal at a moment; gives exit code and output."""

    def run(workdir, moment="", *flags) -> tuple[int, str]:
        done = subprocess.run(
            [*python, "-c", DRIVER, moment, *tiny_flags, "--workdir", str(workdir), *flags],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )
        return done.returncode, done.stdout

    return run


@pytest.mark.parametrize(
    "moments", [(*MOMENTS[1:4], MOMENTS[5]), pytest.param(MOMENTS, marks=pytest.mark.sweep)], ids=len
)
def test_killed_at_any_moment_a_run_ends_bit_identically(start, finished_run, tmp_path, moments):
    workdir = tmp_path / "run"
    resumed_at = []
    for name, moment in moments:
        code, output = start(workdir, moment)
        assert code == -signal.SIGKILL, (name, output)
        resumed_at += map(int, re.findall(r"going on at step (\d+) of 100", output))
    empty_starts = moments.index(MOMENTS[1]) + 1  # up to the first save
    assert len(resumed_at) == len(moments) - empty_starts
    assert resumed_at[0] in (14, 28) and all(40 < step < 60 for step in resumed_at[2:])
    code, output = start(workdir)
    assert code == 0, output
    assert_same_run(workdir, finished_run)


def test_sigterm_saves_and_exits_with_its_own_code(start, finished_run, tmp_path):
    workdir = tmp_path / "run"
    code, output = start(workdir, 'on(Loader, "batch", lambda _, step: step == 45, sent=signal.SIGTERM)')
    assert code == EXIT_PREEMPTED, output
    assert "the same command goes on" in output and "Traceback" not in output
    stopped = int(newest(workdir / "checkpoints").name)
    assert 42 <= stopped <= 45
    measuring = 'on(TagEvaluator, "write_evaluation", lambda *_: True, sent=signal.SIGTERM)'
    code, output = start(workdir, measuring)
    assert f"going on at step {stopped} " in output
    assert code == EXIT_PREEMPTED, output
    code, output = start(workdir)
    assert code == 0 and "going on at step 100 " in output
    assert_same_run(workdir, finished_run)
    summary = json.loads((workdir / "summary.json").read_text())
    assert summary["train_s"] > 0.1  # of all starts: the last one had nothing to train
    assert 10 < summary["real_tokens_per_s"] < 1e6


def test_damaged_checkpoints_are_named_and_the_one_before_is_used(start, finished_run, tmp_path, tiny_flags):
    workdir = tmp_path / "run"
    shutil.copytree(finished_run, workdir)
    for name in ("summary.json", "eval", "predictions"):
        shutil.rmtree(workdir / name) if (workdir / name).is_dir() else (workdir / name).unlink()
    good, bad = sorted(p for p in (workdir / "checkpoints").iterdir())[::-1]
    assert (good.name, bad.name) == ("98", "100")
    data = max(bad.rglob("*"), key=lambda p: p.stat().st_size if p.is_file() else 0)
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)

    code, output = start(workdir)
    assert code == 0, output
    assert f"checkpoint {bad} is damaged" in output
    assert "going on at step 98 " in output
    assert_same_run(workdir, finished_run)

    shutil.rmtree(workdir / "best")  # of the last step: its checkpoint has the same weights
    code, output = start(workdir)
    assert code == 0 and "The weights of the last step are the best" in output, output
    assert_same_run(workdir, finished_run)

    for checkpoint in (workdir / "checkpoints").iterdir():
        data = max(checkpoint.rglob("*"), key=lambda p: p.stat().st_size if p.is_file() else 0)
        data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
    for _ in range(2):  # the second start must not take the damaged ones' absence for a new run
        with pytest.raises(UserError, match=r"every checkpoint is damaged \(98, 100\)"):
            in_process(tiny_flags, workdir)


def test_a_full_disk_costs_no_more_than_it_must(start, finished_run, tmp_path):
    """Saves fail and are said; the run goes on, and once there is room the same command ends as it should."""
    workdir = tmp_path / "run"
    often = ["--config.checkpoint.every_steps=7"]  # twice before the first best weights
    full = """
import resource
def fill(self, step, *_):
    if self.folder.name == "checkpoints" and step == 7:
        self.wait()
        resource.setrlimit(resource.RLIMIT_FSIZE, ({}, resource.RLIM_INFINITY))
    return False
on(RunCheckpoints, "save", fill, after=True)
"""
    code, output = start(workdir, full.format(4_000), *often)  # not even the log has room
    assert code == EXIT_USER_ERROR, output
    assert "warning: step 40 is missing from metrics.jsonl, the run goes on" in output
    assert "step 100/100  dev: entity F1" in output  # it did not stop before it had to
    assert re.search(
        r"^error: --workdir .*; make room, and the same command goes on from the last", output, re.M
    )
    saved = [p.name for p in (workdir / "checkpoints").iterdir() if p.name.isdigit()]
    assert saved == ["7"]  # and perhaps the rest of one that had no room

    script = full.replace("step == 7", "step == 14")
    code, output = start(workdir, script.format(100_000), *often)  # only checkpoints have none
    assert "going on at step 7 " in output
    assert code == 0, output
    assert "warning: checkpoint 56 could not be saved" in output and "kept: [7, 14]" in output
    assert "The weights of the last step take their place" in output
    assert re.search(
        r"^warning: .*best does not hold the weights of step 100, .*; make room, and start ", output, re.M
    )
    summary = json.loads((workdir / "summary.json").read_text())
    rows = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    last = next(row for row in rows if (row["step"], row["kind"]) == (100, "dev"))
    assert summary["best_step"] == 100 and summary["dev"]["entity_f1"] == last["entity_f1"]

    code, output = start(workdir, "", *often)
    assert code == 0 and "going on at step 14 " in output, output
    assert_same_run(workdir, finished_run)


@pytest.mark.sweep
def test_a_folder_that_becomes_read_only_costs_no_more_than_it_must(start, finished_run, tmp_path):
    """As a full disk does: what cannot be written is said, and once it can the same command ends as it should."""
    workdir = tmp_path / "run"
    lock = """
import pathlib
def lock(self, step, *_):
    if self.folder.name == "checkpoints" and step == 28:
        self.wait()
        for path in [self.folder.parent, *self.folder.parent.rglob("*")]:
            path.chmod(0o555 if path.is_dir() else 0o444)
    return False
on(RunCheckpoints, "save", lock, after=True)
"""
    code, output = start(workdir, lock)
    assert code == EXIT_USER_ERROR, output
    assert "warning: step 40 is missing from metrics.jsonl, the run goes on" in output
    assert "warning: checkpoint 42 could not be saved" in output
    assert "step 100/100  dev: entity F1" in output  # it did not stop before it had to
    assert re.search(r"^error: --workdir .*Permission denied.*; make it writable again", output, re.M)
    assert sorted(p.name for p in (workdir / "checkpoints").iterdir()) == ["14", "28"]
    code, output = start(workdir)  # what is still read-only is said at once
    assert code == EXIT_USER_ERROR and re.search(r"^error: --workdir .* cannot be written", output, re.M)

    for path in [workdir, *workdir.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    code, output = start(workdir)
    assert code == 0 and "going on at step 28 " in output, output
    assert_same_run(workdir, finished_run)


def test_another_config_or_other_data_is_refused(finished_run, tiny_flags, corpus, tmp_path):
    with pytest.raises(UserError, match=r"config\.optim\.lr was 0\.01, is 0\.02; config\.seed was 0, is 1"):
        in_process([*tiny_flags, "--config.optim.lr=0.02", "--config.seed=1"], finished_run)
    path = pathlib.Path(corpus["train"])
    text = path.read_text()
    path.write_text("Peter\tB-PER\n\n" + text)
    try:
        with pytest.raises(
            UserError, match="the training (or dev )?data changed since its checkpoint was saved"
        ):
            in_process(tiny_flags, finished_run)
    finally:
        path.write_text(text)


def test_a_finished_run_can_live_without_its_checkpoints(finished_run, tiny_flags, tmp_path, capsys):
    """It is said to be finished, its weights are there, and it does not train anew."""
    workdir = tmp_path / "run"
    shutil.copytree(finished_run, workdir)
    summary = json.loads((workdir / "summary.json").read_text())
    size = folder_bytes(workdir / "checkpoints")
    assert f"checkpoints/ {size / 2**20:,.1f} MiB" in describe_disk_use(workdir, None)
    for flags in (["--config.checkpoint.best_only=True"], []):
        in_process([*tiny_flags, *flags], workdir)
        assert re.search("is finished: it has trained for its 100 steps", capsys.readouterr().out)
        assert not (workdir / "checkpoints").exists() and "checkpoints" not in describe_disk_use(
            workdir, None
        )
        assert json.loads((workdir / "summary.json").read_text()) == summary
    assert open_model(open_run(workdir), print).parameters
    with pytest.raises(UserError, match=rf"train.steps was 100, is 200.*config\.init_from={workdir}"):
        in_process([*tiny_flags, "--config.train.steps=200"], workdir)


def test_a_run_in_a_store_goes_on_there_and_serves_all_verbs(
    finished_run, tiny_flags, corpus, tmp_path, capsys
):
    """fsspec's store in memory has neither folders nor renames nor locks, as gs:// and s3:// have none."""
    address = f"memory://{tmp_path.name}/runs/a"
    store = fsspec.filesystem("memory")
    with local_folder(address) as folder:  # as if it was killed before its last steps
        shutil.copytree(finished_run, folder, dirs_exist_ok=True)
        shutil.rmtree(folder / "checkpoints/100")
        (folder / "summary.json").unlink()
    data = f"memory://{tmp_path.name}/data/dev.conll"
    store.pipe_file(data, pathlib.Path(corpus["dev"]).read_bytes())

    in_process(tiny_flags, pathlib.Path(address))
    output = capsys.readouterr().out
    assert f"going on at step 98 of 100, from {address}/checkpoints/98" in output
    assert f"everything is in {address}" in output and "/jaxft-" not in output
    store.get(f"{address}/", str(tmp_path / "copy"), recursive=True)
    assert_same_run(finished_run, tmp_path / "copy")

    metrics = evaluate_run(pathlib.Path(address), data, tmp_path / "evaluation")
    assert metrics["entity_f1"] == json.loads((finished_run / "summary.json").read_text())["dev"]["entity_f1"]
    with pytest.raises(
        UserError, match=f"--run {address}: an object store.*name a local folder for the results"
    ):
        evaluate_run(pathlib.Path(address), data)
    with pytest.raises(
        UserError, match="--output gs://bucket/model: an object store, where a local path was"
    ):
        export_run(pathlib.Path(address), pathlib.Path("gs://bucket/model"))
    assert not pathlib.Path("gs:").exists()
    with pytest.raises(SystemExit, match="2"):
        use.predict(["--run", address, "--input", data, "--output", "s3://bucket/x"])
    assert "--output s3://bucket/x: an object store" in capsys.readouterr().err
    use.predict(["--run", address, "--input", data, "--output", str(tmp_path / "predicted.conll")])
    assert (tmp_path / "predicted.conll").stat().st_size > 1000
