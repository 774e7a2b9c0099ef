"""Measures the cost of a CRF: train steps with it and with a softmax, in turns in one process. Prints JSON lines.

    python benchmarks/crf_cost.py [--shapes 16x64 8x128] [--turns 15]

The model is MiniLM, in float32 on CPU, with packed rows of `demo:ner`. A turn is a step of each, in an order that
changes from turn to turn. `ratio` is the median over turns of the CRF's seconds divided by the softmax's. The other
lines time the losses alone (value, and gradient for logits), and the search for best paths in words per second.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.data.sources.tagged_sentences import tag_schemes
from jaxft.layers.heads import crf
from jaxft.losses import cross_entropy
from jaxft.parallel.mesh import make_mesh, place_batch
from jaxft.training.network import initial_parameters
from jaxft.training.prepare import prepare_data, prepare_run
from jaxft.training.settings import settings_from_config

STEPS = 1000  # of the schedule


def time_in_turns(actions: dict[str, Callable], turns: int) -> dict:
    """Times two actions in turns.

    Returns the median milliseconds of each, and the median, least and largest ratio of the second to the first.
    """
    seconds = {name: [] for name in actions}
    for action in actions.values():
        action()  # compiles and touches memory
    for turn in range(turns):
        for name in list(actions)[:: 1 if turn % 2 else -1]:
            began = time.perf_counter()
            actions[name]()
            seconds[name].append(time.perf_counter() - began)
    ratios = [second / first for first, second in zip(*seconds.values(), strict=True)]
    medians = {f"{name}_ms": round(1000 * statistics.median(values), 2) for name, values in seconds.items()}
    spread = {"least": round(min(ratios), 3), "largest": round(max(ratios), 3)}
    return medians | {"ratio": round(statistics.median(ratios), 3), **spread}


def measure_steps(rows: int, length: int, turns: int) -> None:
    """Prints the lines of train steps and of losses for one shape."""
    values = {"task": "token_classification", "data.train": "demo:ner/train", "data.dev": "demo:ner/dev"}
    values |= {"data.max_length": length, "batch.rows": rows, "train.steps": STEPS}
    actions = {}
    for name, has_crf in (("softmax", False), ("crf", True)):
        settings = settings_from_config(values | {"model.crf": has_crf})
        mesh = make_mesh(settings)
        data = prepare_data(settings, mesh, lambda line: None)
        run = prepare_run(settings, mesh, data, lambda line: None)
        labels, batch = data.task.labels, place_batch(run.batches.batch(0).arrays, mesh)
        compiled_step = run.trainer.compile(run.batches.shapes[0])
        parameters, _ = initial_parameters(run.net, run.config, data.base_model)
        # A list, because each step replaces the donated state.
        state_cell, hyperparameters = [run.trainer.new_state(parameters)], run.trainer.place_hyperparameters()

        def step(cell=state_cell, compiled_step=compiled_step, batch=batch, hyperparameters=hyperparameters):
            cell[0], metrics = compiled_step(cell[0], batch, hyperparameters)
            jax.block_until_ready((cell[0], metrics))

        actions[name] = step
    shape = {"rows": rows, "length": length, "labels": len(labels)}
    print(json.dumps({"measured": "train step", **shape, **time_in_turns(actions, turns)}), flush=True)

    logits = jax.random.normal(jax.random.key(0), (rows, length, len(labels)))
    chain = crf.Chain(jnp.zeros((len(labels), len(labels))), jnp.zeros(len(labels)), jnp.zeros(len(labels)))

    def softmax(logits, chain):
        return cross_entropy.cross_entropy(logits, batch["labels"], batch["weights"])[0]

    def with_chain(logits, chain):
        arrays = (batch["labels"], batch["weights"], batch["segment_ids"])
        return crf.negative_log_likelihood(logits, *arrays, chain)[0]

    losses = {}
    for name, loss in (("softmax", softmax), ("crf", with_chain)):
        gradient = jax.jit(jax.value_and_grad(loss, (0, 1)))
        losses[name] = lambda gradient=gradient: jax.block_until_ready(gradient(logits, chain))
    line = {"measured": "loss and gradient alone", **shape, **time_in_turns(losses, turns)}
    print(json.dumps(line), flush=True)


def measure_decoding(turns: int) -> None:
    """Prints words a second of `find_best_paths`, on random emissions for 2,000 sentences of 20 words."""
    for type_count in (2, 6, 18):
        labels = ["O"] + [f"{prefix}-{kind}" for kind in range(type_count) for prefix in "BI"]
        start, transitions = tag_schemes.find_allowed_transitions(labels)
        chain = crf.Chain(
            np.where(transitions, 0, -np.inf), np.where(start, 0, -np.inf), np.zeros(len(labels))
        )
        emissions = np.random.default_rng(0).normal(size=(40_000, len(labels))).astype(np.float32)
        seconds = []
        for _ in range(max(turns // 5, 1)):
            began = time.perf_counter()
            crf.find_best_paths(emissions, np.arange(0, 40_001, 20), chain)
            seconds.append(time.perf_counter() - began)
        rate = round(40_000 / statistics.median(seconds))
        print(json.dumps({"measured": "decoding", "labels": len(labels), "words_per_s": rate}), flush=True)


def main() -> None:
    """Parses the flags and measures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", nargs="+", default=["16x64", "8x128"])
    parser.add_argument("--turns", type=int, default=15)
    flags = parser.parse_args()
    for shape in flags.shapes:
        rows, length = map(int, shape.split("x"))
        measure_steps(rows, length, flags.turns)
    measure_decoding(flags.turns)


if __name__ == "__main__":
    main()
