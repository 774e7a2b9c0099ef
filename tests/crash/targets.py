"""The commands that are killed: what each needs, and what must hold when it was killed and when it has ended."""

import contextlib
import itertools
import json
import shutil
import signal
import subprocess
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file

from jaxft.errors import UserError
from jaxft.inference.model import open_model
from jaxft.training.run_folder.workdir import open_run
from tests.fuzz.samples import write_samples
from tests.fuzz.targets import ignore
from tests.fuzz.tiny_bert import write_tiny_bert
from tests.interruption import assert_same_run, newest
from tests.trials import keep_failure

KILLED = Path(__file__).with_name("killed.py")
NEVER = 0  # the number of no write

# Runs the verb, which writes into a folder; returns its exit code, negative for a signal, and what it printed. It is
# killed at the write with the number.
Run = Callable[[Path, int], tuple[int, str]]
Check = Callable[[Path], None]  # raises an AssertionError, or what the program raises


class Target(NamedTuple):
    """A verb that writes into a folder. The functions get the path of that folder, which `prepare` makes."""

    prepare: Callable[[Path], None]
    run: Run
    check_killed: Check
    check: Check


def make_targets(
    folder: Path, python: list[str], environment: dict[str, str], names: Sequence[str] = ()
) -> dict[str, Target]:
    """Returns the targets by name. Writes into `folder` what they need, and what they write when nobody kills them.

    Args:
      folder: a folder.
      python: the command line of Python, to be followed by a script and its arguments.
      environment: of the commands.
      names: the names of the targets that are needed; all if empty.
    """
    samples, model = write_samples(folder / "samples"), write_tiny_bert(folder / "model")
    data, pickled = samples["token_classification"][0], folder / "pickled"
    shutil.copytree(model, pickled)
    torch.save(load_file(pickled / "model.safetensors"), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    settings = {
        "model.checkpoint": model,
        **{f"data.{name}": data for name in ("train", "dev", "test")},
        "data.max_length": 16,
        "batch.rows": 2,
        "train.steps": 4,
        "eval.rows": 2,
        "eval.every_steps": 2,
        "eval.bootstrap": 10,
        "checkpoint.every_steps": 2,
        "log.every_steps": 1,
    }
    recipe = Path(__file__).resolve().parents[2] / "configs/ner.py"

    def start(folder: Path, number: int, *arguments: object) -> tuple[int, str]:
        done = subprocess.run(
            [*python, str(KILLED), str(number), str(folder), *map(str, arguments)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )
        return done.returncode, done.stdout

    def train(folder: Path, number: int) -> tuple[int, str]:
        values = settings | {"data.cache_dir": folder / "cache"}
        flags = [f"--config.{key}={value}" for key, value in values.items()]
        return start(folder, number, "train", "--config", recipe, "--workdir", folder / "run", *flags)

    def export(folder: Path, number: int) -> tuple[int, str]:
        return start(folder, number, "export", "--run", run, "--output", folder / "output")

    def predict(folder: Path, number: int) -> tuple[int, str]:
        return start(folder, number, "predict", "--run", run, "--input", data, "--output", folder / "output")

    def convert(folder: Path, number: int) -> tuple[int, str]:
        return start(folder, number, "convert", pickled, "--output", folder / "output")

    def copy_half(folder: Path) -> None:
        """Copies the run as if it had been killed before its last checkpoint."""
        shutil.copytree(run, folder / "run")
        shutil.rmtree(newest(folder / "run/checkpoints"))
        (folder / "run/summary.json").unlink()

    def assert_can_be_opened(folder: Path) -> None:
        """Checks that each file of JSON is whole, and that the best weights are whole or refused with a sentence."""
        for path in (folder / "run").glob("**/*.json"):
            if "orbax-checkpoint-tmp" not in str(path):
                json.loads(path.read_text(encoding="utf-8"))
        with contextlib.suppress(UserError):
            open_model(open_run(folder / "run"), ignore)

    def make_checks(verb: str) -> tuple[Check, Check]:
        """Returns the checks of a verb with an output: it is absent or whole; it is whole."""

        def check(folder: Path) -> None:
            assert_same_files(unkilled / verb / "output", folder / "output")

        def check_killed(folder: Path) -> None:
            if (output := folder / "output").exists():
                check(folder)
                output.unlink() if output.is_file() else shutil.rmtree(output)  # no verb overwrites a folder

        return check_killed, check

    def check_run(folder: Path) -> None:
        assert_same_run(run, folder / "run")

    unkilled = folder / "unkilled"
    run = unkilled / "train/run"
    targets = {
        "train": Target(Path.mkdir, train, assert_can_be_opened, check_run),
        "resume": Target(copy_half, train, assert_can_be_opened, check_run),
        "export": Target(Path.mkdir, export, *make_checks("export")),
        "predict": Target(Path.mkdir, predict, *make_checks("predict")),
        "convert": Target(Path.mkdir, convert, *make_checks("convert")),
    }
    names = names or list(targets)
    for verb in ["train", *(verb for verb in ("export", "predict", "convert") if verb in names)]:
        (unkilled / verb).mkdir(parents=True)
        code, output = targets[verb].run(unkilled / verb, NEVER)
        assert code == 0, output
    return {name: targets[name] for name in names}


def try_target(target: Target, folder: Path, failures: Path, first: int, every: int) -> Counter[str]:
    """Kills the target at its writes `first`, `first + every`, ... until it ends before the next; returns the figures.

    Args:
      target: the target.
      folder: the folder that each trial makes anew.
      failures: the folder in which failures are kept, by the number of the write.
      first: the number of the first write, from 1.
      every: the distance of the writes.
    """
    figures: Counter[str] = Counter()
    for number in itertools.count(first, every):
        shutil.rmtree(folder, ignore_errors=True)
        target.prepare(folder)
        code, output = target.run(folder, number)
        if code == 0:
            return figures
        figures["tried"] += 1
        was_killed = code == -signal.SIGKILL
        try:
            assert was_killed, output
            target.check_killed(folder)
            code, output = target.run(folder, NEVER)
            assert code == 0, output
            target.check(folder)
            figures["survived"] += 1
        except Exception:
            figures["failed"] += 1
            keep_failure(failures / str(number), folder, traceback.format_exc())
            if not was_killed:  # the command fails by itself
                return figures


def assert_same_files(expected: Path, actual: Path) -> None:
    """Checks that two files, or the files of two folders, have the same content."""
    names = [sorted(path.relative_to(top) for path in top.rglob("*")) for top in (expected, actual)]
    assert names[0] == names[1]
    for name in names[0] or [Path()]:
        assert (expected / name).is_dir() or (expected / name).read_bytes() == (actual / name).read_bytes(), (
            name
        )
