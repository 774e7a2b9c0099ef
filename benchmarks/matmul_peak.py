"""Times matrix products of XLA and torch on this machine, each in a process of its own, and prints a JSON line.

    python benchmarks/matmul_peak.py [--libraries xla torch]

On CPUs the product is that of the MLP of a model of width 768, [2,048 tokens, 768] by [768, 3,072] in float32, torch's
on two threads. On GPUs XLA's is [8,192, 8,192] by itself in bfloat16. Each number is the best of 30 runs, in GFLOP/s.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable

SHAPE = (2048, 768, 3072)  # rows, inner, columns
RUNS = 30


def measure_peak(library: str) -> float:
    """Returns the FLOP/s of the quickest product of "xla" or "torch", measured in a process of its own."""
    command = [sys.executable, __file__, "--libraries", library]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return 1e9 * json.loads(done.stdout.splitlines()[-1])[f"{library}_gflops"]


def _make_xla_product() -> tuple[Callable[[], object], tuple[int, int, int]]:
    import jax

    is_cpu = jax.default_backend() == "cpu"
    shape, dtype = (SHAPE, "float32") if is_cpu else ((8192, 8192, 8192), "bfloat16")
    rows, inner, columns = shape
    left, right = (
        jax.random.normal(jax.random.key(0), size, dtype) for size in ((rows, inner), (inner, columns))
    )
    multiply = jax.jit(lambda left, right: left @ right)
    return lambda: multiply(left, right).block_until_ready(), shape


def _make_torch_product() -> tuple[Callable[[], object], tuple[int, int, int]]:
    import torch

    torch.set_num_threads(2)
    rows, inner, columns = SHAPE
    left, right = torch.randn(rows, inner), torch.randn(inner, columns)
    return lambda: left @ right, SHAPE


PRODUCTS = {"xla": _make_xla_product, "torch": _make_torch_product}


def _measure_gflops(library: str) -> int:
    multiply, (rows, inner, columns) = PRODUCTS[library]()
    seconds = []
    for _ in range(RUNS + 1):  # the first one compiles
        began = time.perf_counter()
        multiply()
        seconds.append(time.perf_counter() - began)
    return round(2 * rows * inner * columns / min(seconds[1:]) / 1e9)


def main() -> None:
    """Measures the libraries that --libraries names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--libraries", nargs="+", choices=PRODUCTS, default=list(PRODUCTS))
    libraries = parser.parse_args().libraries
    if len(libraries) == 1:
        gflops = {libraries[0]: _measure_gflops(libraries[0])}
    else:
        gflops = {library: round(measure_peak(library) / 1e9) for library in libraries}
    print(json.dumps({f"{library}_gflops": value for library, value in gflops.items()}))


if __name__ == "__main__":
    main()
