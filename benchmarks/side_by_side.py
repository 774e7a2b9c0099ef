"""Runs jaxft and scripts of the Hugging Face Trainer as commands, for the benchmarks that compare both."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
ENVIRONMENT = os.environ | {"HF_HUB_OFFLINE": "1"}
QUIET = {
    "log.tensorboard": False,
    "checkpoint.every_steps": 10**6,  # at the end only; the peers save nothing
}


def run(command: Sequence[object]) -> str:
    """Runs a command in the repository and returns what it prints; if it fails, shows its errors and exits."""
    words = [str(word) for word in command]
    done = subprocess.run(words, env=ENVIRONMENT, cwd=REPOSITORY, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(words)}\n{done.stdout}\n{done.stderr}")
    return done.stdout


def run_jaxft(recipe: str, settings: Mapping[str, object], workdir: Path | None = None) -> dict[str, Any]:
    """Trains with a recipe and returns the run's summary.json.

    Args:
      recipe: the name of a recipe of jaxft, such as "intent:banking77".
      settings: settings that change, over those of `QUIET`.
      workdir: the run's folder, which is kept; by default a new one, which is removed.

    Returns:
      The summary, with `command_s`, the seconds of the complete command, `ready_s`, those until the first step, and
      `log`, what it has printed.
    """
    with tempfile.TemporaryDirectory() as folder:
        workdir = workdir or Path(folder) / "run"
        command = [sys.executable, "-m", "jaxft.main", "--config", recipe, "--workdir", workdir]
        began = time.perf_counter()
        log = run([*command, *(f"--config.{key}={value}" for key, value in (QUIET | dict(settings)).items())])
        seconds = time.perf_counter() - began
        summary = json.loads((workdir / "summary.json").read_text())
    ready = next(line for line in log.splitlines() if " ready " in line)
    return summary | {
        "command_s": seconds,
        "ready_s": float(ready.split(" ready ")[1].split()[0]),
        "log": log,
    }


def run_peer(script: str, options: Mapping[str, object], *flags: str) -> dict[str, Any]:
    """Runs a peer script with `--KEY VALUE` for each option; returns the JSON line that it prints last."""
    words = [word for key, value in options.items() for word in (f"--{key}", value)]
    return json.loads(run([sys.executable, Path(script).resolve(), *words, *flags]).strip().splitlines()[-1])


def recorded(
    record: Path | None, key: Mapping[str, object], measure: Callable[[], Mapping[str, object]]
) -> dict[str, Any]:
    """Returns the line of a run in the file `record`, or else measures it, prints its line and adds it to the file.

    Args:
      record: a file of JSON lines, which need not exist; None for no file.
      key: the values that tell the run from others.
      measure: runs it, and returns the other values of its line.
    """
    lines = record.read_text().splitlines() if record and record.exists() else []
    for line in map(json.loads, lines):
        if key.items() <= line.items():
            return line
    line = dict(key) | measure()
    print_line(**line)
    if record:
        with record.open("a") as file:
            file.write(json.dumps(line) + "\n")
    return line


def print_line(**line: object) -> None:
    """Prints one JSON line."""
    print(json.dumps(line), flush=True)
