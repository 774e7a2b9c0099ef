"""Compares the train steps of the tasks, in rows of the same shape, in turns in one process. Prints JSON lines.

    python benchmarks/task_throughput.py [--recipes ner ner_crf sentiment qa nlupp] [--rows 8] [--length 128]

Each recipe trains offline with its own data, head, loss and dropout, on MiniLM with packed rows. A turn is a step of
each recipe; each turn has other batches. `tokens_per_s` counts non-padding tokens over all turns. `ratio` is the rate
relative to the first recipe in the same turn: the least, the median and the largest.
"""

import argparse
import json
import pathlib
import statistics
import time
from typing import Any

import jax
import numpy as np

from jaxft.parallel.mesh import make_mesh, place_batch
from jaxft.training.network import initial_parameters
from jaxft.training.prepare import prepare_data, prepare_run
from jaxft.training.settings import Settings, load_settings

CONFIGS = pathlib.Path(__file__).resolve().parents[1] / "configs"


class Steps:
    """The compiled train step of a run's settings, its state, and its batches."""

    def __init__(self, settings: Settings):
        self._mesh = make_mesh(settings)
        data = prepare_data(settings, self._mesh, lambda line: None)
        run = prepare_run(settings, self._mesh, data, lambda line: None)
        self._loader, trainer = run.batches, run.trainer
        (shape,) = self._loader.shapes
        self._step, self._hyperparameters = trainer.compile(shape), trainer.place_hyperparameters()
        self._state = trainer.new_state(initial_parameters(run.net, run.config, data.base_model)[0])

    def time_step(self, number: int) -> tuple[float, int]:
        """Runs a step on batch `number`; returns its seconds, and the batch's non-padding tokens."""
        arrays: dict[str, Any] = self._loader.batch(number).arrays
        batch = place_batch(arrays, self._mesh)
        jax.block_until_ready(batch)
        began = time.perf_counter()
        self._state, metrics = self._step(self._state, batch, self._hyperparameters)
        jax.block_until_ready(metrics)
        return time.perf_counter() - began, int((arrays["segment_ids"] > 0).sum())


def main() -> None:
    """Parses the flags, measures, and prints a line for each recipe."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--recipes", nargs="+", default=["ner", "ner_crf", "sentiment", "qa", "nlupp"])
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--turns", type=int, default=9)
    flags = parser.parse_args()
    shape = [f"--config.batch.rows={flags.rows}", f"--config.data.max_length={flags.length}"]
    shape += ["--config.train.steps=1000"]
    steps = {name: Steps(load_settings(str(CONFIGS / f"{name}.py"), shape)) for name in flags.recipes}
    seconds, tokens = ({name: [] for name in steps} for _ in range(2))
    for turn in range(flags.turns + 1):
        for name in list(steps)[:: 1 if turn % 2 else -1]:
            step_seconds, step_tokens = steps[name].time_step(turn)
            if turn:  # the first turn touches memory
                seconds[name].append(step_seconds)
                tokens[name].append(step_tokens)
    rates = {name: np.array(tokens[name]) / np.array(seconds[name]) for name in steps}
    for name, rate in rates.items():
        ratios = sorted((rate / rates[flags.recipes[0]]).tolist())
        line = {"recipe": name, "rows": flags.rows, "length": flags.length, "turns": flags.turns}
        line |= {"tokens_per_s": round(sum(tokens[name]) / sum(seconds[name]))}
        line |= {"padding": round(1 - statistics.mean(tokens[name]) / flags.rows / flags.length, 4)}
        line |= {"step_ms": round(1000 * statistics.median(seconds[name]), 1)}
        line |= {"ratio": [round(value, 3) for value in (ratios[0], statistics.median(ratios), ratios[-1])]}
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
