"""Measures how much more memory `jaxft predict` takes for a long text than for a short one. Prints JSON lines.

    python benchmarks/predict_memory.py [--megabytes 9] [--cases windows questions]

Each case trains a tiny BERT with MiniLM's tokenizer for one step, and predicts a short text and one of --megabytes,
each in a process of its own; `many` predicts short texts of --megabytes instead, and `document` the same as one JSON
array. A line has the peak for the short text (`ru_maxrss`) and by how much the other one is higher. Processes before
them fill the cache of compiled programs, because compiling takes memory too.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from jaxft.hub.addresses import resolve_address
from jaxft.training.settings import MINILM

TINY_BERT = {
    "model_type": "bert",
    "vocab_size": 30522,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
SENTENCE = "the company will open an office in Oslo . "
# name -> (recipe, more settings, the key of texts, the other keys of a record)
CASES = {
    "head": ("sentiment", {}, "text", {}),
    "many": ("sentiment", {}, "text", {}),
    "windows": ("sentiment", {"data.truncation": "windows"}, "text", {}),
    "questions": ("qa", {}, "context", {"question": "Who will open it?"}),
    "words": ("ner", {}, "text", {}),
    "columns": ("ner", {}, "", {}),  # one sentence, with a line for each word
    "document": ("sentiment", {}, "text", {}),
}


def run_jaxft(*arguments: object) -> int:
    """Runs a command; returns its peak of memory in bytes."""
    process = subprocess.Popen(
        [sys.executable, "-m", "jaxft", *map(str, arguments)], stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{arguments} ended with status {status}")
    return 1024 * usage.ru_maxrss


def measure(name: str, folder: Path, megabytes: float) -> dict[str, object]:
    """Returns the figures of a case."""
    recipe, settings, key, others = CASES[name]
    settings = settings | {"model.checkpoint": folder / "bert", "model.init": "scratch"}
    settings |= {"train.steps": 1, "data.max_length": 128, "eval.rows": 16}
    run = folder / name
    flags = [f"--config.{setting}={value}" for setting, value in settings.items()]
    run_jaxft("train", "--config", recipe, "--workdir", run, *flags)
    suffix = {"columns": "conll", "document": "json"}.get(name, "jsonl")
    source, output, peaks = folder / f"{name}.{suffix}", folder / f"{name}-answers", {}
    for kind, size in ("warm", 50), ("warm", 5e4), ("short", 50), ("long", 1e6 * megabytes):
        count = 1 + int(size / len(SENTENCE))
        texts = [SENTENCE] * count if name in ("many", "document") else [SENTENCE * count]
        records = [json.dumps(others | {key: text}) for text in texts]
        if name == "columns":
            source.write_text(texts[0].replace(" ", "\n"))
        else:
            source.write_text(f"[{','.join(records)}]" if name == "document" else "\n".join(records))
        peaks[kind] = run_jaxft("predict", "--run", run, "--input", source, "--output", output)
    figures = {"case": name, "short_mb": peaks["short"] // 10**6}
    figures["more_mb"] = (peaks["long"] - peaks["short"]) // 10**6
    if name == "words":
        # Counted as text, because a child's peak is at least that of this process.
        figures["entities"] = output.read_text().count('"score": ')
    return figures


def main() -> None:
    """Parses the flags and prints the lines."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--megabytes", type=float, default=9.0)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "bert").mkdir()
        for file in Path(resolve_address(MINILM)).glob("*token*"):
            (folder / "bert" / file.name).write_bytes(file.read_bytes())
        (folder / "bert/config.json").write_text(json.dumps(TINY_BERT))
        for case in flags.cases:
            print(json.dumps(measure(case, folder, flags.megabytes)), flush=True)


if __name__ == "__main__":
    main()
