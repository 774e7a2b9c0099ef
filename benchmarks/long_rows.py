"""Compares train steps of a ModernBERT over short and long rows, with the Hugging Face Trainer too; prints JSON lines.

    python benchmarks/long_rows.py [--layers 6] [--lengths 512 2048 8192] [--slots 8192] [--sides jaxft trainer]

The model has ModernBERT-base's shape (width 768, 12 heads, every third layer global, the others with a window of 128),
but --layers layers, random weights, and a head for words. A row is one document without padding, of random tokens, each
of which has a label. All steps have --slots tokens, in as few rows as hold them, so the optimizer's part of a step is
the same for all lengths; --slots 1 takes one row of each length. The peer is transformers' Trainer with the same model
and torch's scaled_dot_product_attention. (transformers 5 computes unpadded batches only by flash-attention on GPUs;
these rows have no padding.)

Each measurement is a process of its own, and sides and lengths take turns. A line has `tokens_per_s`, from the median
step after the first; `step_mb`, what the compiler plans for a step, weights and optimizer included; and `peak_mb`, the
peak of the process, compilation included. The last line has the medians of the turns, and the matrix product peaks of
both libraries.

Predicted before the first measurement: jaxft takes per token at most twice the time at 8,192 tokens that it takes at
512.
"""

import argparse
import itertools
import json
import resource
import statistics
import sys
import time

import numpy as np

SIDES = ("jaxft", "trainer")
LABELS, VOCABULARY = 9, 50368
MOST_RATIO = 2.0  # of the time of a token in the longest rows to that in the shortest, as predicted


def make_rows(rows: int, length: int) -> dict[str, np.ndarray]:
    """Returns random `input_ids` and `labels`, int32 `[rows, length]`."""
    numbers = np.random.default_rng(0)
    most = {"input_ids": VOCABULARY, "labels": LABELS}
    return {name: numbers.integers(0, count, (rows, length), np.int32) for name, count in most.items()}


def time_jaxft(layers: int, rows: int, length: int, steps: int) -> dict[str, object]:
    """Returns the `seconds` of each of jaxft's steps, and what is known of its program."""
    import jax

    from jaxft.data.batching.batch import Shape
    from jaxft.parallel.mesh import make_mesh, place_batch
    from jaxft.training.batch_rows import choose_microbatches
    from jaxft.training.network import initial_parameters
    from jaxft.training.prepare import describe_base_model, prepare_network, prepare_task
    from jaxft.training.settings import settings_from_config
    from jaxft.training.trainer import make_trainer, predict_bytes

    settings = {
        "task": "token_classification",
        "model.checkpoint": "new:modernbert",
        "model.init": "scratch",
        "model.sizes": (("num_hidden_layers", layers),),
        "data.max_length": length,
        "batch.rows": rows,
    }
    config = settings_from_config(settings)
    hf_config, mesh = describe_base_model(config), make_mesh(config)
    task = prepare_task(config, hf_config, [f"label {number}" for number in range(LABELS)])
    net = prepare_network(task, config, hf_config, mesh)
    microbatches = choose_microbatches(config, net, rows, length)
    trainer = make_trainer(net, config, total=100, warmup=0, microbatches=microbatches)
    step = trainer.compile(Shape(rows, length))
    state = trainer.new_state(initial_parameters(net, config, checkpoint=None)[0])
    hyperparameters = trainer.place_hyperparameters()
    ones = np.ones((rows, length), np.int32)
    arrays = {
        "segment_ids": ones,
        "positions": ones.cumsum(axis=1, dtype=np.int32) - 1,
        "token_type_ids": 0 * ones,
    }
    batch = place_batch(make_rows(rows, length) | arrays | {"weights": ones.astype(np.float32)}, mesh)
    seconds = []
    for _ in range(steps):
        began = time.perf_counter()
        state, metrics = step(state, batch, hyperparameters)
        jax.block_until_ready(metrics)
        seconds.append(time.perf_counter() - began)
    return {
        "seconds": seconds,
        "attention": net.runtime.attention_line,
        "tflop": round(net.train_flops_per_token(length) * rows * length / 1e12, 2),
        "step_mb": predict_bytes({"train": step}) // 2**20,
    }


def time_trainer(layers: int, rows: int, length: int, steps: int) -> dict[str, object]:
    """Returns the `seconds` of each of the Trainer's steps."""
    import tempfile

    import torch
    from transformers import (
        AutoModelForTokenClassification,
        ModernBertConfig,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

    times: list[float] = []

    class Clock(TrainerCallback):
        """Notes when steps begin and end."""

        def on_step_begin(self, *_: object, **__: object) -> None:
            times.append(time.perf_counter())

        on_step_end = on_step_begin

    torch.set_num_threads(2)
    config = ModernBertConfig(vocab_size=VOCABULARY, num_hidden_layers=layers, num_labels=LABELS)
    model = AutoModelForTokenClassification.from_config(config, attn_implementation="sdpa")
    arrays = {name: torch.from_numpy(values).long() for name, values in make_rows(rows, length).items()}
    arrays["attention_mask"] = torch.ones(rows, length, dtype=torch.long)
    documents = [{name: values[row] for name, values in arrays.items()} for row in range(rows)]
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=steps,
            per_device_train_batch_size=rows,
            weight_decay=0.01,
            save_strategy="no",
            report_to=[],
            logging_steps=10**9,
            disable_tqdm=True,
            use_cpu=True,
        )
        Trainer(model=model, args=arguments, train_dataset=documents, callbacks=[Clock()]).train()
    seconds = [end - begin for begin, end in zip(times[::2], times[1::2], strict=True)]
    return {"seconds": seconds, "attention": model.config._attn_implementation}


TIMERS = {"jaxft": time_jaxft, "trainer": time_trainer}


def measure(flags: argparse.Namespace, side: str, length: int) -> dict[str, object]:
    """Measures a side at a length in this process; returns its line."""
    rows = max(1, flags.slots // length)
    known = TIMERS[side](flags.layers, rows, length, 1 + flags.steps)
    first, *seconds = known.pop("seconds")
    return {
        "side": side,
        "rows": rows,
        "length": length,
        "layers": flags.layers,
        "tokens_per_s": round(rows * length / statistics.median(seconds), 1),
        "seconds": [round(each, 2) for each in (first, *seconds)],
        **known,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 2**10,
    }


def measure_in_process(flags: argparse.Namespace, side: str, length: int) -> dict[str, object]:
    """Returns the line of `measure` from a process of its own, which has the memory pages of the side's commands."""
    from side_by_side import run

    from jaxft.cli.startup import TUNABLE

    options = {"--layers": flags.layers, "--slots": flags.slots, "--steps": flags.steps}
    words = [word for option in options.items() for word in option]
    pages = ["env", f"GLIBC_TUNABLES={TUNABLE}"] if side == "jaxft" else []
    command = [*pages, sys.executable, __file__, "--sides", side, "--lengths", length, "--repeats", 1, *words]
    return json.loads(run(command).splitlines()[-1])


def main() -> None:
    """Parses the flags; measures one side at one length here, and others in turns."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 2048, 8192])
    parser.add_argument("--slots", type=int, default=8192, help="tokens of a step, at least a row")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--steps", type=int, default=2, help="steps after the first")
    parser.add_argument("--repeats", type=int, default=2)
    flags = parser.parse_args()
    if len(flags.sides) == len(flags.lengths) == flags.repeats == 1:
        print(json.dumps(measure(flags, flags.sides[0], flags.lengths[0])), flush=True)
        return
    rates: dict[str, dict[int, list[float]]] = {
        side: {length: [] for length in flags.lengths} for side in flags.sides
    }
    for _, length, side in itertools.product(range(flags.repeats), flags.lengths, flags.sides):
        line = measure_in_process(flags, side, length)
        print(json.dumps(line), flush=True)
        rates[side][length].append(line["tokens_per_s"])
    summarize(rates)


def summarize(rates: dict[str, dict[int, list[float]]]) -> None:
    """Prints the medians of the rates, and whether the prediction holds."""
    from matmul_peak import measure_peak

    medians = {
        side: {length: statistics.median(each) for length, each in rate.items()}
        for side, rate in rates.items()
    }
    result: dict[str, object] = {"result": "long rows", "tokens_per_s": medians}
    if "jaxft" in medians:
        ours = medians["jaxft"]
        ratio = ours[min(ours)] / ours[max(ours)]
        result |= {"time_ratio": round(ratio, 2), "predicted": MOST_RATIO, "holds": ratio <= MOST_RATIO}
    if len(medians) == len(SIDES):
        result["ratios"] = {
            length: round(rate / medians["trainer"][length], 2) for length, rate in ours.items()
        }
    peaks = {library: round(measure_peak(library) / 1e9) for library in ("xla", "torch")}
    print(json.dumps(result | {"matmul_gflops": peaks}), flush=True)


if __name__ == "__main__":
    main()
