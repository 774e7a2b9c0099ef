"""How fast one process reads, encodes and packs text, and what memory that takes; prints JSON lines.

    python benchmarks/data_throughput.py [--megabytes 5 10 20] [--length 128] [--rows 16] [--vocabulary 8192]

For each size, in a process of its own: a synthetic corpus (lines of `demo:text`, words drawn anew), a tokenizer trained
on its beginning, then what a run of `configs/lm.py` does before and beside its steps: all documents are read, encoded
into the cache, rows made up, and every batch of an epoch built. Tokens a second of each, and the peak of memory so far:
of anonymous memory, for what is mapped from files the system takes back when it needs it. A second line is of a process
that finds the cache filled. Memory is flat where the peak does not grow with the size.
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
from jaxft.hub.tokenizer_training import train_tokenizer
from jaxft.tasks.causal_lm.task import CausalLM
from jaxft.training.settings import settings_from_config


def write_corpus(path: pathlib.Path, megabytes: int) -> None:
    """Lines of 20 to 200 words of `demo:text`, drawn by seed."""
    rng = np.random.default_rng(0)
    text = " ".join(itertools.islice(documents.generate_documents("train"), 2000))
    words = np.array(text.split())
    with open(path, "w", encoding="utf-8") as file:
        while file.tell() < megabytes * 10**6:
            for size in rng.integers(20, 200, 500):
                file.write(" ".join(rng.choice(words, size)) + "\n")


def measure(path: pathlib.Path, flags: argparse.Namespace) -> dict:
    """Figures of this process."""
    values = {"task": "causal_lm", "data.train": str(path), "data.max_length": flags.length}
    settings = settings_from_config(values | {"data.cache_dir": str(path.parent / "cache")})
    with open(path, encoding="utf-8") as file:
        tokenizer = train_tokenizer(list(itertools.islice(file, 500)), flags.vocabulary, flags.length)
    task = CausalLM([], head_dropout=0.0, config=settings)
    memory = Peak()
    found = {"megabytes": path.stat().st_size / 1e6, "start_mib": memory.mib()}

    def timed(name: str, action):
        began = time.perf_counter()
        result = action()
        found[f"{name}_s"], found[f"{name}_peak_mib"] = time.perf_counter() - began, memory.mib()
        return result

    texts = timed("read", lambda: task.read(settings, "train", str(path), lambda line: None))
    windows = timed("encode", lambda: task.encode(texts, tokenizer, settings))
    loader = timed(
        "pack",
        lambda: make_loader(windows, rows=flags.rows, max_length=flags.length, pad_id=0, seed=0),
    )
    tokens = timed("batches", lambda: sum(loader.batch(n).tokens for n in range(loader.steps_per_epoch)))
    found["tokens"] = tokens
    for name in ("read", "encode", "pack", "batches"):
        found[f"{name}_tokens_per_s"] = tokens / found[f"{name}_s"]
    return {name: round(value, 1) if isinstance(value, float) else value for name, value in found.items()}


class Peak:
    """Watches this process's anonymous memory, of which Linux keeps no peak of its own."""

    def __init__(self):
        self._most = 0
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            self._look()
            time.sleep(0.02)

    def _look(self) -> None:
        status = pathlib.Path("/proc/self/status").read_text()
        self._most = max(self._most, int(re.search(r"RssAnon:\s+(\d+) kB", status)[1]) // 1024)

    def mib(self) -> int:
        """The most MiB so far."""
        self._look()
        return self._most


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
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                print(json.dumps({"cache": cache, **json.loads(done.stdout)}), flush=True)


if __name__ == "__main__":
    main()
