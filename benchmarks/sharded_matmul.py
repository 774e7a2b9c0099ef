"""Times matrix products of XLA and torch on this machine, in float32 on two threads, and prints a JSON line.

    python benchmarks/sharded_matmul.py

The product is that of GPT-2 small's MLP, [2,048 tokens, 768] by [768, 3,072]. Each number is the best of 30 runs, in
GFLOP/s.
"""

import json
import time
from collections.abc import Callable

import jax
import torch

ROWS, INNER, COLUMNS = 2048, 768, 3072


def measure_gflops(product: Callable[[], object]) -> int:
    """Returns the GFLOP/s of the quickest of 30 calls."""
    seconds = []
    for _ in range(30):
        began = time.perf_counter()
        product()
        seconds.append(time.perf_counter() - began)
    return round(2 * ROWS * INNER * COLUMNS / min(seconds) / 1e9)


def main() -> None:
    """Measures both libraries."""
    torch.set_num_threads(2)
    a, b = torch.randn(ROWS, INNER), torch.randn(INNER, COLUMNS)
    x, y = jax.device_put((a.numpy(), b.numpy()))
    multiply = jax.jit(lambda x, y: x @ y)
    xla = measure_gflops(lambda: multiply(x, y).block_until_ready())
    print(json.dumps({"xla_gflops": xla, "torch_gflops": measure_gflops(lambda: a @ b)}))


if __name__ == "__main__":
    main()
