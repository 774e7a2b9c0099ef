"""Damages what the program reads, at random, and counts what happens: `python -m tests.fuzz --seconds 3600 --seed 0`.

Each trial damages one file, or some settings, and reads them. It survives if the result is right, or if a `UserError`
refuses it and says what is wrong. Anything else has failed: another exception, more than `SLOW_S` seconds of CPU time
or `HANGING_S` seconds, more than `LARGE_MB` megabytes. The trials follow from the seed. Failures are kept in
`--folder`, each with its files and its trace.
"""

import argparse
import contextlib
import io
import itertools
import logging
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["HF_HUB_OFFLINE"] = "1"
SLOW_S, LARGE_MB = 20, 1000
HANGING_S = 200  # by the clock: a trial that waits takes no CPU time
LEAST = 5  # trials of each target, also if they take longer than `--seconds`


def main() -> int:
    """Parses the flags, tries, and prints figures; returns 1 if a trial failed, else 0."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60, help="how long to try; default 60")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--targets", nargs="+", help="names of targets; default all")
    parser.add_argument("--first", type=int, default=0, help="the number of the first trial of each target")
    parser.add_argument("--folder", type=Path, help="where failures are kept; default a temporary folder")
    flags = parser.parse_args()

    from jaxft.errors import UserError
    from jaxft.training.run_folder.abandoned_work import quiet_orbax
    from tests.fuzz.targets import make_targets
    from tests.trials import keep_failure, print_figures

    logging.disable(logging.WARNING)
    quiet_orbax()
    signal.signal(signal.SIGPROF, _too_slow)
    signal.signal(signal.SIGALRM, _too_slow)
    failures = flags.folder or Path(tempfile.mkdtemp(prefix="fuzz-"))
    with tempfile.TemporaryDirectory() as temporary:
        with contextlib.redirect_stdout(io.StringIO()):
            targets = make_targets(Path(temporary))
        names = flags.targets or list(targets)
        figures: dict[str, Counter[str]] = {name: Counter() for name in names}
        deadline, is_over = time.monotonic() + flags.seconds, False
        for number in itertools.count(flags.first):
            for name in names:
                if is_over := number >= flags.first + LEAST and time.monotonic() > deadline:
                    break
                folder = Path(temporary, "trial")
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                outcome, trace = _attempt(
                    targets[name], random.Random(f"{flags.seed}/{name}/{number}"), folder, UserError
                )
                figures[name].update(["tried", outcome, *(["survived"] if outcome == "refused" else [])])
                if outcome == "failed":
                    keep_failure(failures / f"{name.replace(' ', '-')}-{flags.seed}-{number}", folder, trace)
            if is_over:
                break
    return print_figures(figures)


def _attempt(trial, rng: random.Random, folder: Path, user_error: type[Exception]) -> tuple[str, str]:
    """Returns the outcome of a trial, and the trace of one that failed."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    signal.setitimer(signal.ITIMER_PROF, SLOW_S)
    signal.alarm(HANGING_S)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            trial(rng, folder)
        outcome = "survived"
    except user_error:
        outcome = "refused"
    except (Exception, SystemExit):
        return "failed", traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    if grown > LARGE_MB:
        return "failed", f"{grown:,.0f} MB more memory"
    return outcome, ""


def _too_slow(*_) -> None:
    raise RuntimeError(f"more than {SLOW_S} s of CPU time, or {HANGING_S} s")


if __name__ == "__main__":
    sys.exit(main())
