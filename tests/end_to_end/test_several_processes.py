"""Several real processes on CPU as one run: the numbers of one process; what is said where one is missing or lost."""

import importlib.metadata
import json
import pathlib
import re
import shutil
import signal
import subprocess
import time

import pytest
from safetensors.numpy import load_file, save_file

from jaxft.data.sources import files
from jaxft.errors import EXIT_PREEMPTED, EXIT_USER_ERROR
from tests.conftest import free_port
from tests.end_to_end.test_resume import assert_same_run, newest

PEER_TIMEOUT = 8  # seconds; less, and a busy machine takes the living for dead
STEPS = 21

# `jaxft.main`, which keeps which windows it fed at which step, and sends itself a signal at one of them.
DRIVER = """
import json, os, sys
import jax
import numpy as np
from jaxft.cli import train
from jaxft.parallel import mesh
from jaxft.training.run_folder import workdir
from jaxft.data.encoding import sentences
from jaxft.data.batching.loader import Loader

fed = open(sys.argv.pop(1), "w")
at, sent = int(sys.argv.pop(1)), int(sys.argv.pop(1))
build_batch, encode = Loader.batch, sentences._encode

def batch(self, step):
    made = build_batch(self, step)
    if self.seed is not None:
        rows = made.windows if self.layout.only is None else made.windows[self.layout.only]
        json.dump([step, rows[rows >= 0].tolist(), made.arrays["input_ids"].shape[0], self.seed], fed)
        print(file=fed, flush=True)
        if step == at:
            os.kill(os.getpid(), sent)
    return made

def encoded(chunk, *rest):
    print(len(chunk.sentences), file=chunks, flush=True)
    yield from encode(chunk, *rest)

def versions(installed=workdir.installed_versions):
    return installed() | {"optax": "0.0.1"}

if "interleaved" in sys.argv:  # two devices a process, neighbours in the mesh being of two processes
    sys.argv.remove("interleaved")
    jax.config.update("jax_num_cpu_devices", 2)
    mesh.arrange_devices = lambda sizes, devices: np.asarray(devices)[[0, 2, 1, 3]].reshape(sizes)
if "other-optax" in sys.argv:
    sys.argv.remove("other-optax")
    workdir.installed_versions = versions
chunks = open(fed.name + "-chunks", "w")
Loader.batch, sentences._encode, sentences._CHUNK_WORDS = batch, encoded, 300  # words
train.train(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def processes(environment, python):
    """Runs commands, one a process of a run, each on one thread; gives [(exit code, stdout, stderr)], seconds."""

    def run(commands: list[list[str]], folders=None) -> tuple[list[tuple[int, str, str]], float]:
        address = f"127.0.0.1:{free_port()}"
        began, threads = time.monotonic(), "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
        threads = f"{environment['XLA_FLAGS']} {threads}"
        started = [
            subprocess.Popen(
                [*python, *command, "--coordinator", address, "--num_processes", str(len(commands))]
                + ["--process_id", str(index), "--peer_timeout", str(PEER_TIMEOUT)],
                env=environment
                | {"XLA_FLAGS": threads, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "0"},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                cwd=folders and folders[index],
            )
            for index, command in enumerate(commands)
            if command
        ]
        try:
            texts = [process.communicate(timeout=240) for process in started]
        finally:
            for process in started:
                process.kill()
        # Without what gloo says of its own, in any process.
        told = [re.sub(r"^\[Gloo\].*\n", "", stderr, flags=re.M) for _, stderr in texts]
        ends = [
            (process.returncode, text[0], err)
            for process, text, err in zip(started, texts, told, strict=True)
        ]
        return ends, time.monotonic() - began

    return run


@pytest.fixture(scope="module")
def flags(tiny_flags) -> list[str]:
    """Packing, dropout and accumulation on, two epochs."""
    settings = {
        "train.steps": STEPS,
        "batch.rows": 8,
        "model.unroll": "no",  # compiled sooner
        "optim.lr": 1e-3,
        "log.every_steps": 1,
        "eval.every_steps": 10,
        "checkpoint.every_steps": 7,
    }
    return [*tiny_flags, *(f"--config.{key}={value}" for key, value in settings.items())]


@pytest.fixture(scope="module")
def train(processes, flags, tmp_path_factory):
    """A run of `count` processes, the last of which sends itself a signal when it builds batch `at`."""
    driver = tmp_path_factory.mktemp("driver") / "driver.py"
    driver.write_text(DRIVER)

    def run(workdir: pathlib.Path, count=2, *, at=-1, sent=0, more=(), differing=(), **options):
        fed = workdir.parent / f"{workdir.name}-fed"
        fed.mkdir(parents=True, exist_ok=True)
        own_flags = [flag for flag in flags if "cache_dir" not in flag]  # which is in the workdir then
        commands = [
            [str(driver), str(fed / f"{index}.jsonl"), str(at if index == count - 1 else -1), str(int(sent))]
            + [*own_flags, "--workdir", str(workdir), *more]
            for index in range(count)
        ]
        commands[-1] += differing
        return processes(commands, **options)

    return run


@pytest.fixture(scope="module")
def undisturbed(train, tmp_path_factory) -> pathlib.Path:
    """The workdir of a finished run of two processes."""
    workdir = tmp_path_factory.mktemp("several") / "undisturbed"
    ends, _ = train(workdir)
    assert [code for code, _, _ in ends] == [0, 0], ends
    assert "everything is in" in ends[0][1] and ends[1][1] == ""
    assert [stderr for *_, stderr in ends] == ["", ""]
    return workdir


def losses(workdir: pathlib.Path) -> dict[int, float]:
    rows = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return {row["step"]: row["loss"] for row in rows if row["kind"] == "train"}


@pytest.fixture(scope="module")
def alone(command, flags, tmp_path_factory) -> pathlib.Path:
    """The workdir of the same run in one process."""
    workdir = tmp_path_factory.mktemp("one") / "alone"
    done = command("train", *flags, "--workdir", workdir)
    assert done.returncode == 0, done.stderr
    return workdir


def test_two_processes_train_and_evaluate_as_one_does(undisturbed, alone, command, corpus, tmp_path):
    expected_losses, actual_losses = losses(alone), losses(undisturbed)
    assert list(expected_losses) == list(actual_losses) == list(range(1, STEPS + 1))
    assert max(abs(expected_losses[step] - actual_losses[step]) for step in expected_losses) < 1e-5
    separate, joint = (json.loads((run / "summary.json").read_text()) for run in (alone, undisturbed))
    for key in ("steps", "best_step", "padding_fraction"):
        assert separate[key] == joint[key], key
    assert joint["late_compiles"] == 0

    # What two processes saved and measured, one restores and measures: 40 sentences, whose last batch isn't full.
    out = tmp_path / "out"
    done = command("evaluate", "--run", undisturbed, "--data", corpus["test"], "--output", out)
    assert done.returncode == 0, done.stderr
    actual, expected = (json.loads((folder / "eval/test.json").read_text()) for folder in (out, undisturbed))
    loss = [result["metrics"].pop("loss") for result in (actual, expected)]
    assert loss[0] == pytest.approx(loss[1], rel=1e-6)
    assert actual == expected and actual["metrics"]["entity_predicted"] > 10
    assert (out / "predictions/test.conll").read_bytes() == (
        undisturbed / "predictions/test.conll"
    ).read_bytes()


def test_each_example_is_fed_by_one_process_once_an_epoch(undisturbed):
    fed = [
        [json.loads(line) for line in (undisturbed.parent / "undisturbed-fed" / f"{index}.jsonl").open()]
        for index in range(2)
    ]
    steps = json.loads((undisturbed / "metrics.jsonl").read_text().splitlines()[0])
    epoch = round(steps["step"] / steps["epoch"])
    assert {rows for process in fed for _, _, rows, _ in process} == {4}  # of 8: each builds what it feeds
    seen = [{step: windows for step, windows, *_ in process} for process in fed]
    for first in range(0, STEPS - epoch + 1, epoch):
        ids = [window for step in range(first, first + epoch) for process in seen for window in process[step]]
        assert len(ids) > 250 and sorted(ids) == list(range(len(ids)))


@pytest.mark.sweep
def test_neighbours_in_a_mesh_may_be_of_two_processes(train, undisturbed, tmp_path):
    """As on slices of TPUs, whose wires a mesh follows: each process feeds the rows that its devices take."""
    more = ["interleaved", "--config.mesh.data=2", "--config.mesh.fsdp=2"]
    ends, _ = train(tmp_path / "run", more=more)
    assert [code for code, _, _ in ends] == [0, 0], ends
    expected, actual = losses(undisturbed), losses(tmp_path / "run")
    assert len(actual) == STEPS and max(abs(expected[step] - actual[step]) for step in expected) < 1e-5
    rows = [(tmp_path / "run-fed" / f"{index}.jsonl").read_text().splitlines() for index in range(2)]
    assert {json.loads(line)[2] for line in rows[0] + rows[1]} == {4}


def test_each_chunk_of_the_text_is_encoded_by_one_process(undisturbed, corpus):
    folder = undisturbed.parent / "undisturbed-fed"
    counts = [list(map(int, (folder / f"{index}.jsonl-chunks").read_text().split())) for index in range(2)]
    sentences = sum(pathlib.Path(path).read_text().strip().count("\n\n") + 1 for path in corpus.values())
    assert sum(map(sum, counts)) == sentences and sum(map(len, counts)) > 10
    assert {path.suffix for path in (undisturbed / "cache").iterdir()} == {".arrow"}


PARTS = 4


@pytest.fixture(scope="module")
def dealt(corpus, tmp_path_factory):
    """A folder of files with the training data; folders of two processes, whose other files are no text; file to shard.

    Persons are in one file only, so that one process alone knows all labels, and files are of different sizes.
    """
    folders = [tmp_path_factory.mktemp("dealt") / name for name in ("all", "0", "1")]
    blocks = pathlib.Path(corpus["train"]).read_text().strip().split("\n\n")
    first = [block for block in blocks if "-PER" in block]
    rest = [block for block in blocks if "-PER" not in block]
    for folder in folders:
        folder.mkdir()
    for index, file_sentences in enumerate(
        (first, rest[0::5] + rest[1::5], *(rest[n::5] for n in (2, 3, 4)))
    ):
        (folders[0] / f"part-{index}.conll").write_text("\n\n".join(file_sentences) + "\n")
    paths = sorted(folders[0].iterdir())
    shards = files.deal_files([path.name for path in paths], [path.stat().st_size for path in paths], PARTS)
    for number, names in enumerate(shards):
        for path in (folders[0] / name for name in names):
            shard_path, other_path = (
                folders[1 + number // 2] / path.name,
                folders[2 - number // 2] / path.name,
            )
            shard_path.write_bytes(path.read_bytes())
            other_path.write_bytes(b"\xff" * path.stat().st_size)
    return folders, shards


def test_each_process_reads_encodes_and_packs_only_what_it_feeds(
    train, dealt, corpus, command, flags, tmp_path
):
    """With sharded data: of other processes\' files there is but the size. One process with all shards trains the same.

    The first start ends by a SIGTERM to one process.
    """
    folders, shards = dealt
    held_out = tmp_path / "dev.conll"  # with a sentence of each file
    firsts = [path.read_text().partition("\n\n")[0] for path in folders[0].iterdir()]
    held_out.write_text("\n\n".join([pathlib.Path(corpus["dev"]).read_text().strip(), *firsts]) + "\n")
    settings = {
        "data.train": "part-*.conll",
        "data.shards": PARTS,
        "data.scheme": "iob2",
        "data.dev": held_out,
        "batch.rows": "none",
        "batch.examples": 26,
    }
    more = [f"--config.{key}={value}" for key, value in settings.items()]
    shared_run = tmp_path / "together"
    options = {"more": more, "folders": folders[1:]}
    ends, _ = train(shared_run, at=12, sent=signal.SIGTERM, **options)
    assert [code for code, *_ in ends] == [EXIT_PREEMPTED] * 2, ends
    fed = [(tmp_path / "together-fed" / f"{index}.jsonl").read_text() for index in range(2)]
    encoded = [(tmp_path / "together-fed" / f"{index}.jsonl-chunks").read_text() for index in range(2)]
    ends, _ = train(shared_run, **options)
    assert [code for code, *_ in ends] == [0, 0], ends

    single = tmp_path / "single"
    own_flags = [flag for flag in flags if "cache_dir" not in flag]
    done = command("train", *own_flags, *more, "--workdir", single, cwd=folders[0])
    assert done.returncode == 0, done.stderr
    expected_losses, actual_losses = losses(single), losses(shared_run)
    assert list(expected_losses) == list(actual_losses) == list(range(1, STEPS + 1))
    assert max(abs(expected_losses[step] - actual_losses[step]) for step in expected_losses) < 1e-5
    summaries = [json.loads((run / "summary.json").read_text()) for run in (single, shared_run)]
    for key in ("steps", "rows_per_step", "examples_per_step", "padding_fraction", "late_compiles"):
        assert summaries[0][key] == summaries[1][key], key
    evaluations = [json.loads((run / "eval/test.json").read_text()) for run in (single, shared_run)]
    # What the processes know of training, each of its shard, is put together: labels, entities that were seen.
    assert len(evaluations[0]["metrics"]) == len(evaluations[1]["metrics"]) > 8
    assert (
        evaluations[0]["errors"]["gold"] == evaluations[1]["errors"]["gold"]
        and evaluations[0]["errors"]["gold"]["seen"] > 5
    )
    for text in done.stdout, ends[0][1]:  # process 0 also tells what others found in their shards
        assert "warning: 5 of 45 sentences of dev stand" in text
        assert re.findall(r"^train: part-\*.conll#(\d/4): ", text, re.M) == [
            f"{shard}/4" for shard in range(1, 5)
        ]

    def count(path: pathlib.Path) -> int:
        return path.read_text().strip().count("\n\n") + 1

    sizes = [sum(count(folders[0] / name) for name in names) for names in shards]
    others = count(held_out) + count(pathlib.Path(corpus["test"]))  # encoded by one or the other
    counts = [sum(map(int, text.split())) for text in encoded]
    assert sum(counts) == sum(sizes) + others
    for index, text in enumerate(fed):
        seen: dict[int, dict[int, list[int]]] = {}
        for step, windows, rows, seed in map(json.loads, text.splitlines()):
            assert rows == 2  # of 8: each shard feeds as many
            seen.setdefault(seed, {})[step] = windows
        shard_sizes = sizes[2 * index : 2 * index + 2]
        assert sum(shard_sizes) <= counts[index] <= sum(shard_sizes) + others
        for size, steps in zip(shard_sizes, seen.values(), strict=True):
            order = [window for _, windows in sorted(steps.items()) for window in windows]
            windows = max(order) + 1  # of some sentences there are two
            assert len(order) > windows >= size  # more than an epoch
            assert sorted(order[:windows]) == list(range(windows))  # no example twice, none missed


def test_processes_that_see_other_files_do_not_deal_them(train, dealt, tmp_path):
    """Or examples would be fed twice, or by nobody."""
    folders, _ = dealt
    (folders[2] / "part-9.conll").write_text("more O\n")
    try:
        more = [
            "--config.data.train=part-*.conll",
            f"--config.data.shards={PARTS}",
            "--config.data.scheme=iob2",
        ]
        ends, _ = train(tmp_path / "run", more=more, folders=folders[1:])
    finally:
        (folders[2] / "part-9.conll").unlink()
    for code, _, stderr in ends:
        assert code == EXIT_USER_ERROR
        assert "the size of part-9.conll is 7, not None; start it with" in stderr


def test_after_a_sigterm_and_a_kill_a_run_ends_bit_identically(train, undisturbed, tmp_path):
    """The signals come to the second of two processes."""
    workdir = tmp_path / "run"
    ends, _ = train(workdir, at=2, sent=signal.SIGTERM)
    assert [code for code, _, _ in ends] == [EXIT_PREEMPTED] * 2, ends
    stopped = int(newest(workdir / "checkpoints").name)
    assert 1 <= stopped < 7  # saved for the signal: 7 would have been without

    ends, _ = train(workdir, at=14, sent=signal.SIGKILL)
    seconds = time.time() - (tmp_path / "run-fed/1.jsonl").stat().st_mtime  # since the signal
    assert [code for code, _, _ in ends] == [EXIT_PREEMPTED, -signal.SIGKILL], ends
    assert f"going on at step {stopped} of 21" in ends[0][1]
    sentence = (
        rf"^error: process 0 stops: process 1 \(.+\) gave no sign of life for {PEER_TIMEOUT} s and counts"
    )
    assert re.search(sentence + " as lost; the same command in every process goes on", ends[0][2], re.M)
    assert PEER_TIMEOUT <= seconds < PEER_TIMEOUT + 30

    ends, _ = train(workdir)
    assert [code for code, _, _ in ends] == [0, 0], ends
    assert re.search("going on at step (7|14) of 21", ends[0][1])
    assert_same_run(workdir, undisturbed)


def test_two_processes_evaluate_and_predict_as_one_does(undisturbed, processes, command, corpus, tmp_path):
    """Process 0 writes."""
    flags = ["--run", str(undisturbed)]
    evaluate = [
        "-m",
        "jaxft",
        "evaluate",
        *flags,
        "--data",
        corpus["test"],
        "--output",
        str(tmp_path / "out"),
    ]
    ends, _ = processes([evaluate, evaluate])
    assert [code for code, _, _ in ends] == [0, 0] and ends[1][1] == "", ends
    predicted = (tmp_path / "out/predictions/test.conll").read_bytes()
    assert predicted == (undisturbed / "predictions/test.conll").read_bytes()
    actual, expected = (
        json.loads((folder / "eval/test.json").read_text()) for folder in (tmp_path / "out", undisturbed)
    )
    assert actual == expected

    flags += ["--input", corpus["test"]]
    done = command("predict", *flags)
    assert done.returncode == 0 and done.stdout.count("\n") > 300, done.stderr
    predict = [["-m", "jaxft", "predict", *flags, "--output", str(tmp_path / f"{i}.conll")] for i in range(2)]
    ends, _ = processes(predict)
    assert [code for code, _, _ in ends] == [0, 0] and ends[1][2] == "", ends
    assert (tmp_path / "0.conll").read_text() == done.stdout
    assert not (tmp_path / "1.conll").exists()


@pytest.mark.parametrize(
    ("count", "devices"),
    [(2, 1), (4, 1), (4, 8)],
)
@pytest.mark.sweep
def test_what_several_processes_save_one_goes_on_with(
    train, alone, flags, environment, python, tmp_path, count, devices
):
    """Parameters and optimizer state split over the processes, of which one is killed; then one gets a SIGTERM."""
    workdir, mesh = tmp_path / "several", ["--config.mesh.data=1", "--config.mesh.fsdp=-1"]
    ends, seconds = train(workdir, count, at=16, sent=signal.SIGKILL, more=mesh)
    assert [code for code, _, _ in ends] == [EXIT_PREEMPTED] * (count - 1) + [-signal.SIGKILL], ends
    assert seconds < 120
    for index, (_, _, stderr) in enumerate(ends[:-1]):
        assert re.search(
            rf"^error: process {index} stops: process {count - 1} \(.+\) gave no sign of life", stderr, re.M
        )

    ends, _ = train(workdir, count, at=17, sent=signal.SIGTERM, more=mesh)
    assert re.search("going on at step (7|14) of 21", ends[0][1])
    assert [code for code, _, _ in ends] == [EXIT_PREEMPTED] * count, ends
    assert f"devices: data 1, fsdp {count}" in " ".join(ends[0][1].split())
    stopped = int(newest(workdir / "checkpoints").name)
    assert 14 < stopped < STEPS  # saved for the signal: 14 and 21 would have been without
    assert all(f"SIGTERM at step {stopped}" in stderr for *_, stderr in ends)

    # Measured by several and by one at step 10: 40 sentences fill no whole batch.
    of_several, of_one = (
        next(row for row in map(json.loads, (run / "metrics.jsonl").open()) if row["kind"] == "dev")
        for run in (workdir, alone)
    )
    assert of_several.pop("kind") == of_one.pop("kind") and of_several["step"] == 10 and len(of_several) > 20
    assert of_several == pytest.approx(of_one, rel=1e-5, abs=1e-5)

    mesh = [] if devices == 1 else [f"--config.mesh.{axis}=2" for axis in ("data", "fsdp", "tensor")]
    xla_flags = f"{environment['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    done = subprocess.run(
        [*python, "-m", "jaxft.main", *flags, "--workdir", workdir, *mesh],
        env=environment | {"XLA_FLAGS": xla_flags},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and f"going on at step {stopped} of {STEPS}" in done.stdout, done
    expected_losses, actual_losses = losses(alone), losses(workdir)  # of several processes, then of this one
    assert list(actual_losses) == list(expected_losses)
    assert max(abs(actual_losses[step] - expected_losses[step]) for step in expected_losses) < 1e-5


def test_processes_that_differ_are_named_with_what_differs(train, corpus, tmp_path):
    """Settings and packages first; then data, which each reads from a folder of its own."""
    ends, _ = train(tmp_path / "settings", differing=["--config.optim.lr=0.02", "other-optax"])
    for index, (code, _, stderr) in enumerate(ends):
        assert code == EXIT_USER_ERROR
        message = rf"error: process {index}: process 1 \(.+\) differs from process 0 \(.+\): config.optim.lr is 0.02, "
        packages = rf"optax is '0.0.1', not '{re.escape(importlib.metadata.version('optax'))}'"
        assert re.search(message + rf"not 0.001; {packages}; start it with: .* --process_id 1 ", stderr), (
            stderr
        )
        assert "lr=0.02" not in stderr  # the command is process 0's
    assert not (tmp_path / "settings").exists()

    for index in range(2):
        (tmp_path / str(index)).mkdir()
        text = pathlib.Path(corpus["train"]).read_text()
        (tmp_path / str(index) / "train.conll").write_text(text + "\nPeter\tB-PER\n" * index)
        (tmp_path / str(index) / "test.conll").write_text("Peter\tB-PER\n" * (1 + index))
    folders = [tmp_path / "0", tmp_path / "1"]
    more = ["--config.data.train=train.conll", "--config.data.test=test.conll"]
    ends, _ = train(tmp_path / "data", more=more, folders=folders)
    for code, _, stderr in ends:
        assert code == EXIT_USER_ERROR and re.search(
            r"process 1 \(.+\) differs from .*: test data is '\w{12}...', not '.*; train data is '", stderr
        )

    (tmp_path / "1" / "train.conll").unlink()
    ends, seconds = train(tmp_path / "missing", more=more, folders=folders)
    assert [code for code, _, _ in ends] == [EXIT_USER_ERROR, EXIT_USER_ERROR]
    assert re.match(r"error: process 1: train.conll", ends[1][2]), ends[1][2]
    assert re.match(r"error: process 0 stops: process 1 \(.+\) failed: train.conll", ends[0][2]), ends[0][2]
    assert seconds < 60


@pytest.mark.sweep
def test_processes_that_start_from_other_weights_are_named(train, corpus, tiny_bert, tmp_path):
    folders = [tmp_path / "0", tmp_path / "1"]
    for index, folder in enumerate(folders):
        folder.mkdir()
        for name in ("train", "test"):
            shutil.copy(corpus[name], folder / f"{name}.conll")
        copy = shutil.copytree(tiny_bert, folder / "bert")
        tensors = load_file(copy / "model.safetensors")
        save_file({name: value + index for name, value in tensors.items()}, copy / "model.safetensors")
    more = ["--config.data.train=train.conll", "--config.data.test=test.conll"]
    more += ["--config.model.checkpoint=bert"]
    ends, _ = train(tmp_path / "run", more=more, folders=folders)
    for code, _, stderr in ends:
        assert code == EXIT_USER_ERROR and re.search(
            r"process 1 \(.+\) differs from .*: pretrained weights is '\w{8}', not '\w{8}'", stderr
        ), stderr


def test_two_processes_generate_what_one_does(processes, command, tiny_gpt2, tmp_path):
    """Three prompts, so that the last batch isn't full; process 0 writes."""
    (tmp_path / "in.txt").write_text("the cat\na\nand a hat\n")
    flags = ["--checkpoint", str(tiny_gpt2), "--input", str(tmp_path / "in.txt"), "--rows", "1"]
    flags += ["--max-new-tokens", "5", "--temperature", "0.9"]
    done = command("generate", *flags, "--seed", "3")
    assert done.returncode == 0, done.stderr
    both = [["-m", "jaxft", "generate", *flags, "--output", str(tmp_path / f"{i}.jsonl")] for i in range(2)]
    ends, _ = processes([words + ["--seed", "3"] for words in both])
    assert [code for code, _, _ in ends] == [0, 0], ends
    assert (tmp_path / "0.jsonl").read_text() == done.stdout and done.stdout.count('"generated"') == 3
    assert not (tmp_path / "1.jsonl").exists() and ends[1][2] == ""


@pytest.mark.sweep
def test_processes_that_generate_with_other_flags_are_named(processes, tiny_gpt2, tmp_path):
    (tmp_path / "in.txt").write_text("the cat\n")
    flags = ["--checkpoint", str(tiny_gpt2), "--input", str(tmp_path / "in.txt"), "--max-new-tokens", "5"]
    ends, _ = processes([["-m", "jaxft", "generate", *flags, "--seed", seed] for seed in "34"])
    assert [code for code, _, _ in ends] == [EXIT_USER_ERROR] * 2, ends
    assert re.search(r"process 1 \(.+\) differs from process 0 \(.+\): --seed is 4, not 3; start", ends[0][2])


def test_a_process_that_does_not_start_is_named(processes):
    command = ["-m", "jaxft.main", "--config", "configs/ner.py", "--start_timeout", "1"]
    ends, _ = processes([command, []])
    [(code, _, stderr)] = ends
    assert code == EXIT_USER_ERROR
    assert re.search(
        r"^error: process 0: after 1 s 1 of 2 processes are missing \(1\); see that they", stderr, re.M
    )
    assert re.search(r"with: process 1: \S+ -m jaxft.main --config configs/ner.py .* --process_id 1 ", stderr)
    assert "Traceback" not in stderr
    ends, _ = processes([[], command])
    [(code, _, stderr)] = ends
    assert code == EXIT_USER_ERROR
    assert re.search(r"^error: process 1: after 1 s process 0 is not there at 127.0.0.1:", stderr, re.M)
    assert "it is started there with: " in stderr and " --process_id 0 " in stderr


DYING = """
import argparse, os, signal, time

from jaxft.cli.flags import add_process_flags
from jaxft.cli.several_processes import as_process
from jaxft.parallel import processes

parser = argparse.ArgumentParser()
add_process_flags(parser)
with as_process(parser.parse_args()):
    if processes.is_main_process():
        time.sleep(2)
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(100)
"""


def test_the_loss_of_process_0_ends_the_others_at_once(processes, tmp_path):
    """Also where jax, which then aborts, is first to hear of it."""
    (tmp_path / "script.py").write_text(DYING)
    ends, seconds = processes([[str(tmp_path / "script.py")]] * 2)
    assert ends[0][0] == -signal.SIGKILL and seconds < 60
    assert ends[1][0] == EXIT_PREEMPTED
    sentence = r"error: process 1 stops: process 0 \(.+\) .* counts as lost; the same command in every process goes on"
    assert len(re.findall(sentence, ends[1][2])) == 1
