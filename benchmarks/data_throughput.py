"""Measures how fast one process reads, encodes and packs text, and how much memory it takes; prints JSON lines.

    python benchmarks/data_throughput.py [--megabytes 5 10 20] [--length 128] [--rows 16] [--vocabulary 8192]

A process for each size makes a synthetic corpus (lines of words drawn from `demo:text`) and trains a tokenizer on its
beginning. It then performs the data work of a run of `configs/lm.py`: it reads all documents, encodes them into the
cache, packs the windows into rows, and builds every batch of an epoch. The line has the tokens per second of each of
these, and the peak of anonymous memory so far (memory mapped from files does not count, because the system reclaims it
when it needs it). A second process finds the cache filled, and prints a second line. Memory is flat if the peak does
not grow with the size.
"""

import argparse
import itertools
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import threading
import time

import numpy as np

from jaxft.data.batching.choice import make_loader
from jaxft.data.demo import documents
from jaxft.hub.processors import TextProcessor
from jaxft.hub.tokenizer_training import train_tokenizer
from jaxft.tasks.registry import make_data
from jaxft.training.settings import settings_from_config


def write_corpus(path: pathlib.Path, megabytes: int) -> None:
    """Writes lines of 20 to 200 words, drawn at random from `demo:text` with a fixed seed."""
    rng = np.random.default_rng(0)
    text = " ".join(itertools.islice(documents.generate_documents("train"), 2000))
    words = np.array(text.split())
    with open(path, "w", encoding="utf-8") as file:
        while file.tell() < megabytes * 10**6:
            for size in rng.integers(20, 200, 500):
                file.write(" ".join(rng.choice(words, size)) + "\n")


def measure(path: pathlib.Path, flags: argparse.Namespace) -> dict:
    """Returns the figures of this process."""
    values = {"task": "causal_lm", "data.train": str(path), "data.max_length": flags.length}
    settings = settings_from_config(values | {"data.cache_dir": str(path.parent / "cache")})
    with open(path, encoding="utf-8") as file:
        tokenizer = train_tokenizer(list(itertools.islice(file, 500)), flags.vocabulary, flags.length)
    data = make_data(settings)
    memory = PeakMemory()
    figures = {"megabytes": path.stat().st_size / 1e6, "start_mib": memory.mib()}

    def timed(name: str, action):
        start = time.perf_counter()
        result = action()
        figures[f"{name}_s"], figures[f"{name}_peak_mib"] = time.perf_counter() - start, memory.mib()
        return result

    texts = timed("read", lambda: data.read("train", str(path), lambda line: None))
    windows = timed("encode", lambda: data.encode(texts, [], TextProcessor(tokenizer)))
    loader = timed(
        "pack",
        lambda: make_loader(windows, rows=flags.rows, max_length=flags.length, seed=0),
    )
    tokens = timed("batches", lambda: sum(loader.batch(n).units for n in range(loader.steps_per_epoch)))
    figures["tokens"] = tokens
    for name in ("read", "encode", "pack", "batches"):
        figures[f"{name}_tokens_per_s"] = tokens / figures[f"{name}_s"]
    return {name: round(value, 1) if isinstance(value, float) else value for name, value in figures.items()}


class PeakMemory:
    """Samples this process's anonymous memory, since Linux keeps no peak of it."""

    def __init__(self):
        self._peak_mib = 0
        threading.Thread(target=self._sample_forever, daemon=True).start()

    def _sample_forever(self) -> None:
        while True:
            self._sample()
            time.sleep(0.02)

    def _sample(self) -> None:
        status = pathlib.Path("/proc/self/status").read_text()
        self._peak_mib = max(self._peak_mib, int(re.search(r"RssAnon:\s+(\d+) kB", status)[1]) // 1024)

    def mib(self) -> int:
        """Returns the peak so far, in MiB."""
        self._sample()
        return self._peak_mib


def main() -> None:
    """Parses the flags and measures."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    flags.add_argument("--megabytes", nargs="+", type=int, default=[5, 10, 20])
    flags.add_argument("--length", type=int, default=128)
    flags.add_argument("--rows", type=int, default=16)
    flags.add_argument("--vocabulary", type=int, default=8192)
    flags.add_argument("--measure", type=pathlib.Path, help="a corpus: measures it in this process")
    flags = flags.parse_args()
    if flags.measure:
        print(json.dumps(measure(flags.measure, flags)))
        return
    for megabytes in flags.megabytes:
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "corpus.txt"
            write_corpus(path, megabytes)
            for cache in ("empty", "filled"):
                command = [sys.executable, __file__, "--measure", str(path), "--length", str(flags.length)]
                command += ["--rows", str(flags.rows), "--vocabulary", str(flags.vocabulary)]
                process = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                print(json.dumps({"cache": cache, **json.loads(process.stdout)}), flush=True)


if __name__ == "__main__":
    main()
