"""Runs the tests and the measurements that need a GPU, within a time, and prints a table of what they gave.

    python benchmarks/gpu.py [--minutes 8] [--ner DIR --ner-peer hf_ner.py] [--text FILE --lm-peer hf_lm.py]

The most telling ones come first. Each has a limit of its own, and what no longer fits into the time is left out and
named. DIR holds train.conll and dev.conll; the peers are described in ner_throughput.py and lm_throughput.py. Their
measurements are left out without them; so is that of --texts DIR --texts-peer hf_cls.py, which
classification_throughput.py describes. The complete output of each is written to runs/gpu/NAME.log.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

REPOSITORY = Path(__file__).resolve().parents[1]
# Two processes on one GPU: neither takes all of its memory at its start.
ENVIRONMENT = os.environ | {
    "HF_HUB_OFFLINE": "1",
    "JAX_PLATFORMS": "cuda",
    "XLA_FLAGS": "",
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
}
SHOWN_LINES = 12  # of an output, in the table


class Measurement(NamedTuple):
    """A command, and the seconds that it may take."""

    name: str
    arguments: Sequence[str]  # of Python
    limit_s: float


class Outcome(NamedTuple):
    """What became of a measurement."""

    name: str
    result: str  # "ok", "exit 1", "stopped after 60 s" or "left out"
    seconds: float
    lines: Sequence[str]  # the last ones of its output


def list_measurements(flags: argparse.Namespace) -> list[Measurement]:
    """Returns what the flags allow, the most telling first."""
    measurements = [Measurement("attention", ["benchmarks/attention.py", "--turns", "10"], 60)]
    if flags.ner and flags.ner_peer:
        speed = ["--part", "speed", "--epochs-speed", "3", "--batch", "128", "--rows", "64", "--repeats", "2"]
        speed += ["--sides", "peer_grouped"]
        data = [
            "--data",
            flags.ner,
            "--peer",
            flags.ner_peer,
            *(["--model", flags.bert] if flags.bert else []),
        ]
        measurements.append(Measurement("ner", ["benchmarks/ner_throughput.py", *data, *speed], 150))
    if flags.text and flags.lm_peer:
        large = ["--part", "large", "--block", "1024", "--rows", "8", "--seeds", "0", "--steps-large", "100"]
        data = ["--text", flags.text, "--peer", flags.lm_peer]
        measurements.append(Measurement("lm", ["benchmarks/lm_throughput.py", *data, *large], 120))
    if flags.texts and flags.texts_peer:
        quality = ["--part", "quality", "--seeds", "0"]
        data = ["--data", flags.texts, "--peer", flags.texts_peer]
        measurements.append(
            Measurement("texts", ["benchmarks/classification_throughput.py", *data, *quality], 120)
        )
    measurements.append(Measurement("generate", ["benchmarks/generate_throughput.py", "--turns", "3"], 90))
    tests = ["-m", "pytest", "-n", "0", "-rA", "--tb=short", "tests/end_to_end/test_gpu.py"]
    measurements.append(Measurement("tests", tests, 240))
    return measurements


def run_measurements(measurements: Sequence[Measurement], seconds: float, output: Path) -> list[Outcome]:
    """Runs measurements in order until `seconds` have passed; writes OUTPUT/NAME.log for each."""
    output.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + seconds
    outcomes = []
    for name, arguments, limit_s in measurements:
        limit_s = min(limit_s, end - time.monotonic())
        if limit_s < 1:
            outcomes.append(Outcome(name, "left out", 0.0, []))
            continue
        log, began = output / f"{name}.log", time.monotonic()
        with log.open("wb") as stream:
            process = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=REPOSITORY,
                env=ENVIRONMENT,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                code = process.wait(limit_s)
                result = f"exit {code}" if code else "ok"
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)  # with the peers that it has started
                process.wait()
                result = f"stopped after {limit_s:.0f} s"
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        outcomes.append(Outcome(name, result, time.monotonic() - began, lines[-SHOWN_LINES:]))
        print(f"{name}: {result}, {outcomes[-1].seconds:.0f} s", flush=True)
    return outcomes


def print_table(outcomes: Sequence[Outcome]) -> None:
    """Prints what each measurement gave."""
    table = Table("measurement", "result", "seconds", "end of its output", show_lines=True)
    for outcome in outcomes:
        table.add_row(outcome.name, outcome.result, f"{outcome.seconds:.0f}", "\n".join(outcome.lines))
    Console(width=None if sys.stdout.isatty() else 160, markup=False).print(table)


def main() -> None:
    """Parses the flags, measures, and exits with 1 if a measurement failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--minutes", type=float, default=8.0, help="after which no measurement begins or goes on"
    )
    parser.add_argument("--ner", help="a folder with train.conll and dev.conll")
    parser.add_argument("--ner-peer", help="a script that trains on it with the Hugging Face Trainer")
    parser.add_argument("--bert", help="the model of both, an address; MiniLM if it is not given")
    parser.add_argument("--text", help="a text file for the language model")
    parser.add_argument("--lm-peer", help="a script that trains on it with the Hugging Face Trainer")
    parser.add_argument("--texts", help="a folder with train.csv and test.csv")
    parser.add_argument("--texts-peer", help="a script that trains on it with the Hugging Face Trainer")
    parser.add_argument("--output", type=Path, default=Path("runs/gpu"), help="the folder of the logs")
    flags = parser.parse_args()
    outcomes = run_measurements(list_measurements(flags), 60 * flags.minutes, flags.output)
    print_table(outcomes)
    sys.exit(any(outcome.result.startswith("exit") for outcome in outcomes))


if __name__ == "__main__":
    main()
