"""Keeps and prints what the fuzzer and the killer of commands find."""

import json
import shutil
import sys
from collections import Counter
from pathlib import Path


def keep_failure(kept: Path, files: Path, trace: str) -> None:
    """Copies the files of a trial that failed, and its trace, into the folder `kept`, and prints where that is."""
    shutil.copytree(files, kept, dirs_exist_ok=True)
    (kept / "trace.txt").write_text(trace, encoding="utf-8", errors="backslashreplace")
    print(f"failed: {kept}: {trace.strip().splitlines()[-1][:200]}", file=sys.stderr, flush=True)


def print_figures(figures: dict[str, Counter[str]]) -> int:
    """Prints a line of JSON for each target and for all; returns 1 if a trial failed, else 0.

    Args:
      figures: by target, how many trials were `tried`, `survived` and `failed`, and what else was counted.
    """
    for target, counts in {**figures, "all": sum(figures.values(), Counter())}.items():
        print(json.dumps({"target": target, "tried": 0, "survived": 0, "failed": 0} | counts), flush=True)
    return int(any(counts["failed"] for counts in figures.values()))
