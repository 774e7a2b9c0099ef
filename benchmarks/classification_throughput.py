"""Compares jaxft with the Hugging Face Trainer on labelled texts: speed, accuracy over seeds; prints JSON lines.

    python benchmarks/classification_throughput.py --data DIR --peer hf_cls.py [--part speed|quality]

DIR holds train.csv and test.csv with columns text and category, as Banking77 does. The peer script takes --model,
--train, --eval, --label, --epochs, --lr, --bs, --seed, --group and prints a JSON line with real_tokens_per_s,
peak_rss_mb and accuracy. Both sides see the same number of texts per step on average: the peer takes 32, jaxft the
packed rows that hold 32. Speeds are non-padding tokens per second of the training loop alone, without start-up,
compilation and evaluation. The peer's share of padding is computed from text lengths in batches drawn the same way.
"""

import argparse
import csv
import statistics

import numpy as np
from side_by_side import print_line, run_jaxft, run_peer

from jaxft.hub.addresses import resolve_address
from jaxft.training.settings import MINILM

TEXTS = 32  # of a step
REPORTED = (
    "steps",
    "train_s",
    "real_tokens_per_s",
    "padding_fraction",
    "input_stall_fraction",
    "peak_rss_bytes",
)


def train_peer(flags, options: dict, *more: str) -> dict:
    """Runs the peer script; returns the JSON line that it prints."""
    options |= {"model": resolve_address(MINILM), "lr": 1e-4, "bs": TEXTS, "label": flags.label}
    options |= {"train": f"{flags.data}/train.csv", "eval": f"{flags.data}/test.csv"}
    return run_peer(flags.peer, options, *more)


def train_jaxft(flags, settings: dict) -> dict:
    """Runs jaxft with one evaluation, at the end, on the test set; returns its summary.json."""
    settings |= {
        "data.train": f"{flags.data}/train.csv",
        "data.dev": f"{flags.data}/test.csv",  # the peer trains on all of train and chooses nothing
        "data.test": "none",
        "data.max_length": flags.length,
        "batch.rows": flags.rows,
        "eval.every_steps": 10**6,
        "eval.bootstrap": 0,
    }
    return run_jaxft("intent:banking77", settings)


def compute_peer_padding(flags) -> float:
    """Returns the share of padding in batches of 32 texts in random order, each padded to its longest text."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(resolve_address(MINILM))
    with open(f"{flags.data}/train.csv", encoding="utf-8", newline="") as file:
        texts = [row["text"] for row in csv.DictReader(file)]
    lengths = np.array([len(ids) for ids in tokenizer(texts, truncation=False, padding=False)["input_ids"]])
    order = np.random.default_rng(0).permutation(len(lengths))
    batches = [lengths[order[first : first + TEXTS]] for first in range(0, len(order), TEXTS)]
    return 1 - lengths.sum() / sum(batch.max() * len(batch) for batch in batches)


def measure_speed(flags) -> None:
    """Runs jaxft, the peer and the peer with --group in turn for --epochs-speed epochs; prints medians and ratios."""
    padding = compute_peer_padding(flags)
    rates = {"jaxft": [], "peer": [], "peer_grouped": []}
    for repeat in range(flags.repeats):
        ours = train_jaxft(flags, {"train.epochs": flags.epochs_speed})
        rates["jaxft"].append(ours["real_tokens_per_s"])
        print_line(
            run="jaxft",
            repeat=repeat,
            **{key: ours[key] for key in REPORTED},
            late_compiles=ours["late_compiles"],
        )
        for name, extra in (("peer", []), ("peer_grouped", ["--group"])):
            if name == "peer_grouped" and not flags.grouped:
                continue
            line = train_peer(flags, {"epochs": flags.epochs_speed}, *extra)
            rates[name].append(line["real_tokens_per_s"])
            print_line(run=name, repeat=repeat, **line)
    print_line(
        result="speed",
        median_tokens_per_s={
            name: round(statistics.median(values)) for name, values in rates.items() if values
        },
        ratio_to_peer=[round(a / b, 2) for a, b in zip(rates["jaxft"], rates["peer"], strict=True)],
        ratio_to_peer_grouped=[
            round(a / b, 2) for a, b in zip(rates["jaxft"], rates["peer_grouped"], strict=False)
        ],
        padding={"jaxft": round(ours["padding_fraction"], 4), "peer": round(padding, 4)},
    )


def measure_quality(flags) -> None:
    """Prints the last step's test accuracy after --epochs epochs over the same seeds, of both sides or of --side."""
    accuracies = {"jaxft": [], "peer": []}
    for seed in flags.seeds:
        if flags.side != "peer":
            ours = train_jaxft(flags, {"train.epochs": flags.epochs, "seed": seed})
            accuracies["jaxft"].append(ours["dev"]["accuracy"])
            scores = {name: ours["dev"][name] for name in ("accuracy", "f1_macro")}
            print_line(
                run="jaxft",
                seed=seed,
                steps=ours["steps"],
                real_tokens_per_s=ours["real_tokens_per_s"],
                **scores,
            )
        if flags.side != "jaxft":
            line = train_peer(flags, {"epochs": flags.epochs, "seed": seed})
            accuracies["peer"].append(line["accuracy"])
            print_line(run="peer", seed=seed, **line)
    print_line(
        result="quality",
        mean_accuracy={
            side: round(statistics.mean(values), 4) for side, values in accuracies.items() if values
        },
    )


def main() -> None:
    """Parses the flags and runs what --part names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True)
    parser.add_argument("--peer", required=True)
    parser.add_argument("--part", choices=["speed", "quality", "all"], default="all")
    parser.add_argument("--label", default="category", help="the peer's column of labels")
    parser.add_argument("--length", type=int, default=64, help="of a packed row")
    parser.add_argument("--rows", type=int, default=8, help="of a step: 8 of 64 hold 31 of Banking77's texts")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--grouped", action="store_true", help="also the peer with batches of like lengths")
    parser.add_argument("--epochs-speed", type=float, default=1.0)
    parser.add_argument("--epochs", type=float, default=5.0, help="of the quality part")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--side", choices=["jaxft", "peer", "both"], default="both", help="of the quality part"
    )
    flags = parser.parse_args()
    for name, measure in (("speed", measure_speed), ("quality", measure_quality)):
        if flags.part in (name, "all"):
            measure(flags)


if __name__ == "__main__":
    main()
