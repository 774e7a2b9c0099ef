"""Compares jaxft with the Hugging Face Trainer on a NER corpus: speed in turns, F1 over seeds; prints JSON lines.

    python benchmarks/ner_throughput.py --data DIR --peer hf_ner.py [--part speed|quality|start]

DIR holds train.conll and dev.conll. The peer script takes --model, --train, --eval, --epochs, --max-steps, --lr,
--seed, --group and prints a JSON line with real_tokens_per_s, peak_rss_mb and f1. Both sides see the same number of
sentences per step on average: the peer takes --batch, jaxft the packed rows that hold as many. Speeds are non-padding
tokens per second of the training loop alone, without start-up, compilation and evaluation.
"""

import argparse
import statistics

from matmul_peak import measure_peak
from side_by_side import print_line, run_jaxft, run_peer

from jaxft.hub.addresses import resolve_address
from jaxft.training.settings import MINILM

SIDES = {"peer": [], "peer_grouped": ["--group"]}  # flags of the peer script
REPORTED = (
    "steps",
    "train_s",
    "real_tokens_per_s",
    "padding_fraction",
    "input_stall_fraction",
    "peak_rss_bytes",
    "late_compiles",
    "ready_s",
)


def train_peer(flags, options: dict, *more: str) -> dict:
    """Runs the peer script; returns the JSON line that it prints."""
    options |= {"model": resolve_address(flags.model), "lr": 1e-4, "bs": flags.batch}
    options |= {"train": f"{flags.data}/train.conll", "eval": f"{flags.data}/dev.conll"}
    return run_peer(flags.peer, options, *more)


def train_jaxft(flags, settings: dict) -> dict:
    """Runs jaxft; returns its summary.json."""
    settings |= {
        "model.checkpoint": flags.model,
        "data.train": f"{flags.data}/train.conll",
        "data.dev": f"{flags.data}/dev.conll",
        "data.test": "none",
        "data.max_length": flags.length,
        "batch.rows": flags.rows,
        "optim.lr": 1e-4,
    }
    return run_jaxft("ner", settings)


def measure_speed(flags) -> None:
    """Runs jaxft and each of --sides in turn for --epochs-speed epochs; prints medians and ratios."""
    rates = {name: [] for name in ("jaxft", *flags.sides)}
    memory = {name: [] for name in rates}
    for repeat in range(flags.repeats):
        ours = train_jaxft(flags, {"train.epochs": flags.epochs_speed})
        rates["jaxft"].append(ours["real_tokens_per_s"])
        memory["jaxft"].append(ours["peak_rss_bytes"] / 2**20)
        print_line(
            run="jaxft",
            repeat=repeat,
            **{key: ours[key] for key in REPORTED},
        )
        flops = ours["train_flops_per_token"]
        for name in flags.sides:
            line = train_peer(flags, {"epochs": flags.epochs_speed}, *SIDES[name])
            rates[name].append(line["real_tokens_per_s"])
            memory[name].append(line["peak_rss_mb"])
            print_line(run=name, repeat=repeat, **line)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    peak = measure_peak("xla")
    share = medians["jaxft"] * flops / peak  # the model's FLOPs, without those for padding
    print_line(
        result="speed",
        median_tokens_per_s={name: round(value) for name, value in medians.items()},
        ratios={
            name: [round(a / b, 2) for a, b in zip(rates["jaxft"], rates[name], strict=True)]
            for name in flags.sides
        },
        median_ratios={
            name: round(statistics.median(a / b for a, b in zip(rates["jaxft"], rates[name], strict=True)), 2)
            for name in flags.sides
        },
        median_peak_mb={name: round(statistics.median(values)) for name, values in memory.items()},
        matmul_peak_gflops=round(peak / 1e9),
        share_of_matmul_peak=round(share, 3),
    )


def measure_quality(flags) -> None:
    """Prints dev entity F1 after six epochs over the same seeds, of both sides or, to divide the hours, of --side."""
    for seed in flags.seeds:
        if flags.side != "peer":
            # One evaluation, at the end, because the peer's score is that of the last step.
            ours = train_jaxft(flags, {"train.epochs": 6.0, "seed": seed, "eval.every_steps": 10**6})
            metrics = {name: ours["dev"][name] for name in ("entity_f1", "entity_precision", "entity_recall")}
            print_line(
                run="jaxft", seed=seed, steps=ours["steps"], **metrics, lenient_f1=ours["dev"]["lenient_f1"]
            )
        if flags.side != "jaxft":
            print_line(run="peer", seed=seed, **train_peer(flags, {"epochs": 6, "seed": seed}))


def measure_start(flags) -> None:
    """Prints the seconds from the command to the first step, with a filled compilation cache."""
    seconds = [train_jaxft(flags, {"train.steps": 2})["ready_s"] for _ in range(flags.repeats + 1)][1:]
    print_line(result="start", ready_s=seconds, median=statistics.median(seconds))


def main() -> None:
    """Parses the flags and runs what --part names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True)
    parser.add_argument("--peer", required=True)
    parser.add_argument("--model", default=MINILM, help="the address of a model")
    parser.add_argument("--batch", type=int, default=32, help="sentences of a step of the peer")
    parser.add_argument("--part", choices=["speed", "quality", "start", "all"], default="all")
    parser.add_argument(
        "--length", type=int, default=64, help="of a packed row; longer sentences are cut in two"
    )
    parser.add_argument("--rows", type=int, default=16, help="of a step: 16 of 64 hold 32 WNUT sentences")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--sides", nargs="+", choices=SIDES, default=list(SIDES), help="peers of the speed part"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--side", choices=["jaxft", "peer", "both"], default="both", help="of the quality part"
    )
    parser.add_argument("--epochs-speed", type=float, default=1.0)
    flags = parser.parse_args()
    measures = {"start": measure_start, "speed": measure_speed, "quality": measure_quality}
    for name, measure in measures.items():
        if flags.part in (name, "all"):
            measure(flags)


if __name__ == "__main__":
    main()
