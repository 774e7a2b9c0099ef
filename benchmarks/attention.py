"""Times the attention implementations on this machine's GPU, forward and backward, and prints JSON lines.

    python benchmarks/attention.py [--turns 20]

It uses bfloat16, 12 heads of 64 and random segments. cuDNN's attention (jax.nn.dot_product_attention) gets segments as
a mask and is timed without dropout. `error` is the largest relative L2 distance of output and gradients from dense
attention in float32.
"""

import argparse
import json
import time

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.layers.attention.dense import dense_attention
from jaxft.layers.attention.flash import flash_attention
from jaxft.layers.attention.interface import Visibility
from jaxft.layers.dropout import DropoutSeed

HEADS, WIDTH = 12, 64
# rows, length, what a query sees, segments of a row
SHAPES = [
    (8, 1024, Visibility(causal=True), 1),
    (8, 1024, Visibility(causal=True), 10),
    (8, 512, Visibility(), 4),
    (32, 128, Visibility(), 6),
    (16, 64, Visibility(), 3),
    (2, 4096, Visibility(), 1),
    (2, 4096, Visibility(window=64), 1),
]
SEED = {"seed": DropoutSeed(jnp.uint32(3), jnp.int32(0)), "site": 3}


def cudnn(q, k, v, segment_ids, visibility):
    """Computes attention of flat `[R * L, D]` by cuDNN, as `dense_attention`."""
    rows, length = segment_ids.shape
    q, k, v = (x.reshape(rows, length, HEADS, -1) for x in (q, k, v))
    visible = segment_ids[:, None, :, None] == segment_ids[:, None, None, :]
    if visibility.window is not None:
        slots = jnp.arange(length)
        visible &= jnp.abs(slots[:, None] - slots) <= visibility.window
    options = {"mask": visible, "is_causal": visibility.causal, "implementation": "cudnn"}
    return jax.nn.dot_product_attention(q, k, v, **options).reshape(rows * length, -1)


def measure(rows: int, length: int, visibility: Visibility, segments: int, rate: float, turns: int) -> None:
    """Prints a line for each implementation."""
    unsorted = np.random.default_rng(0).integers(1, segments + 1, (rows, length))
    ids = jnp.asarray(np.sort(unsorted, axis=1), jnp.int32)
    keys = jax.random.split(jax.random.key(1), 4)
    arrays = [jax.random.normal(key, (rows * length, HEADS * WIDTH), jnp.bfloat16) for key in keys]
    options = {"num_heads": HEADS, "visibility": visibility, "rate": rate}

    def dense(q, k, v):
        return dense_attention(q, k, v, ids, **options, **SEED)

    def flash(q, k, v):
        return flash_attention(q, k, v, ids, **options, **SEED)

    def with_gradients(function):
        def both(q, k, v, pull):
            out, back = jax.vjp(function, q, k, v)
            return out, *back(pull)

        return jax.jit(both)

    with jax.default_matmul_precision("highest"):
        exact = with_gradients(dense)(*(x.astype(jnp.float32) for x in arrays))
    functions = {"dense": dense, "flash": flash}
    if not rate:
        functions["cudnn"] = lambda q, k, v: cudnn(q, k, v, ids, visibility)
    for name, function in functions.items():
        compiled = with_gradients(function)
        outputs = jax.block_until_ready(compiled(*arrays))
        error = max(
            float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b)) for a, b in zip(outputs, exact, strict=True)
        )
        seconds = []
        for _ in range(3):
            began = time.perf_counter()
            for _ in range(turns):
                outputs = compiled(*arrays)
            jax.block_until_ready(outputs)
            seconds.append((time.perf_counter() - began) / turns)
        line = {"rows": rows, "length": length, "segments": segments, "dropout": rate}
        line |= {
            "causal": visibility.causal,
            "window": visibility.window,
            "attention": name,
            "ms": round(1e3 * min(seconds), 3),
            "error": round(error, 5),
        }
        print(json.dumps(line), flush=True)


def main() -> None:
    """Parses the flags and measures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=20)
    flags = parser.parse_args()
    if jax.default_backend() != "gpu":
        parser.error(f"needs a GPU; jax computes on {jax.default_backend()} here")
    for shape in SHAPES:
        for rate in (0.0, 0.1):
            measure(*shape, rate, flags.turns)


if __name__ == "__main__":
    main()
