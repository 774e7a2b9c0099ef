"""Compares train steps of one CPU that are computed whole, in two and in four microbatches; prints a JSON line.

    python benchmarks/microbatches.py [--model text] [--rows 32] [--length 128] [--repeats 8]

The models are new: "text" has MiniLM's sizes and tags words, "wide" four layers of BERT-base's width, and "images" is a
ViT-tiny for images of 224 pixels. Batches are random. The steps are in turns in one process, because the speed of a
machine varies; the ratios are medians over the turns.
"""

import argparse
import json
import statistics
import time

import jax
import numpy as np

from jaxft.data.batching.batch import Shape
from jaxft.parallel.mesh import make_mesh, place_batch
from jaxft.training.network import initial_parameters, make_abstract_batch
from jaxft.training.prepare import describe_base_model, prepare_network, prepare_task
from jaxft.training.settings import settings_from_config
from jaxft.training.trainer import make_trainer

COUNTS = (1, 2, 4)  # of microbatches
LABELS = [str(number) for number in range(9)]
SIZES = {
    "text": {
        "hidden_size": 384,
        "num_hidden_layers": 6,
        "num_attention_heads": 12,
        "intermediate_size": 1536,
    },
    "wide": {"num_hidden_layers": 4},
    "images": {
        "hidden_size": 192,
        "num_hidden_layers": 12,
        "num_attention_heads": 3,
        "intermediate_size": 768,
    },
}


def main() -> None:
    """Compiles the three steps, and makes them in turns."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=SIZES, default="text")
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--length", type=int, default=128, help="slots of a row of text")
    parser.add_argument("--repeats", type=int, default=8)
    flags = parser.parse_args()
    is_text = flags.model != "images"
    settings = {
        "task": "token_classification" if is_text else "image_classification",
        "model.checkpoint": "new:bert" if is_text else "new:vit",
        "model.init": "scratch",
        "model.sizes": tuple(SIZES[flags.model].items()),
        "batch.rows": flags.rows,
    }
    config = settings_from_config(settings | ({"data.max_length": flags.length} if is_text else {}))
    hf_config, mesh = describe_base_model(config), make_mesh(config)
    task = prepare_task(config, hf_config, LABELS)
    net = prepare_network(task, config, hf_config, mesh)
    shape = Shape(flags.rows, task.batch_spec.row_length or flags.length)
    numbers = np.random.default_rng(0)
    arrays = {
        name: numbers.random(leaf.shape).astype(leaf.dtype)
        if np.issubdtype(leaf.dtype, np.floating)
        else np.ones(leaf.shape, leaf.dtype)
        for name, leaf in make_abstract_batch(net, shape).items()
    }
    batch = place_batch(arrays, mesh)
    steps, states, seconds = {}, {}, {count: [] for count in COUNTS}
    for count in COUNTS:
        trainer = make_trainer(net, config, total=100, warmup=0, microbatches=count)
        hyperparameters = trainer.place_hyperparameters()
        steps[count] = trainer.compile(shape)
        states[count] = trainer.new_state(initial_parameters(net, config, checkpoint=None)[0])
    for _ in range(flags.repeats + 1):  # the first turn does not count
        for count in COUNTS:
            began = time.perf_counter()
            states[count], metrics = steps[count](states[count], batch, hyperparameters)
            jax.block_until_ready((states[count], metrics))
            seconds[count].append(time.perf_counter() - began)
    turns = [
        dict(zip(COUNTS, times, strict=True))
        for times in zip(*(s[1:] for s in seconds.values()), strict=True)
    ]
    line = vars(flags) | {
        "positions": flags.rows * net.model_config.count_positions(shape.length),
        "seconds": {count: round(statistics.median(times[1:]), 3) for count, times in seconds.items()},
        "speed": {n: round(statistics.median(turn[1] / turn[n] for turn in turns), 2) for n in COUNTS},
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
