"""Measures jaxft inside of a program, in processes of their own. Prints JSON lines.

    python benchmarks/library.py [--part predict train torch] [--repeats 2]

predict  the CPU seconds of `Run.predict` for a short text, after a first call: the median of 20 calls.
train    the CPU seconds of a process that trains MiniLM for 40 steps of 8 rows of 128, in turns with pages of 4 KiB and
         with huge pages. A first process fills the cache of compiled programs.
torch    what importing transformers' tokenizers costs with torch and without it: CPU seconds, and the peak of memory.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

SETTINGS = {"data.test": "none", "log.tensorboard": False}
PREDICT = f"""
import statistics, sys, time
import jaxft

run = jaxft.train("intent", sys.argv[1], **{SETTINGS | {"train.steps": 1}})
seconds = []
for _ in range(21):
    began = time.process_time()
    run.predict("I lost my card, please block it")
    seconds.append(time.process_time() - began)
print(statistics.median(seconds[1:]))
"""
TRAIN = f"""
import sys
import jax, jaxft

jax.config.update("jax_compilation_cache_dir", sys.argv[1] + "-programs")
shape = {{"train.steps": 40, "batch.rows": 8, "data.max_length": 128, "data.dev": "none"}}
jaxft.train("ner", sys.argv[1] + sys.argv[2], **{SETTINGS} | shape)
"""
IMPORT = """
import sys

if sys.argv[2] == "without":
    sys.modules["torch"] = None
import transformers.models.auto.tokenization_auto
"""


def run_python(script: str, *arguments: object, huge_pages: bool = False) -> tuple[str, float, int]:
    """Runs a script; returns what it prints at last, its CPU seconds and its peak of memory in MiB."""
    environment = os.environ | ({"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"} if huge_pages else {})
    command = [sys.executable, "-c", script, *map(str, arguments)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"a process ended with status {status}")
    return output.split("\n")[-2] if output else "", usage.ru_utime + usage.ru_stime, usage.ru_maxrss // 1024


def main() -> None:
    """Parses the flags and prints the lines."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    measurements = ["predict", "train", "torch"]
    parser.add_argument("--part", nargs="+", choices=measurements, default=measurements)
    parser.add_argument("--repeats", type=int, default=2)
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "predict" in flags.part:
            seconds, _, _ = run_python(PREDICT, folder / "intent")
            print(json.dumps({"part": "predict", "cpu_s": round(float(seconds), 3)}), flush=True)
        if "train" in flags.part:
            run_python(TRAIN, folder / "ner", "-first")
            for turn in range(flags.repeats):
                for huge_pages in (False, True):
                    _, seconds, _ = run_python(
                        TRAIN, folder / "ner", f"-{turn}-{huge_pages}", huge_pages=huge_pages
                    )
                    line = {"part": "train", "huge_pages": huge_pages, "cpu_s": round(seconds, 1)}
                    print(json.dumps(line), flush=True)
        if "torch" in flags.part:
            for _ in range(flags.repeats):
                for torch in ("with", "without"):
                    _, seconds, peak = run_python(IMPORT, "", torch)
                    line = {"part": "torch", "torch": torch, "cpu_s": round(seconds, 1), "peak_mib": peak}
                    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
