"""Convolves with kernels of 3 x 3 and stride 1 by Winograd's method, for CPUs.

The method is F(2 x 2, 3 x 3) of Lavin & Gray (2016), section 4.1. The output is cut into tiles of 2 x 2 places, each of
which depends on a window of 4 x 4 places of the input. Let d be such a window, k the kernel and y the tile. Then
`y = A^T [(G k G^T) * (B^T d B)] A` for each pair of channels. So a convolution is 16 matrix products over channels, one
for each place of a window, which take 4 multiplications for a place of the output instead of 9. A and B only add. What
is added here has the same size in all, so rounding errors are those of other orders of summation.

Its gradients follow from the same formula: that of the input is a convolution, and that of the kernel is
`G^T [(A dy A^T) * (B^T d B)] G`, summed over tiles.

For 32 images of 56 x 56 x 64 places it takes half of the time of XLA's convolutions, for 28 x 28 x 128 and
14 x 14 x 256 about a fifth less, and for the kernel's gradient half (two cores of an AMD EPYC, float32;
benchmarks/images.py measures the entire step).
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from jaxft.layers.convolution.groups import multiply_pixels, split_rows

GROUP_VALUES = 2**20  # of the input in a group of images, the products of which stay in a cache
Grid = list[list[jax.Array]]  # arrays by the row and the column of their place in a window or a tile


def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves images, around which zeros stand.

    Args:
      x: `[R, H, W, in]`, float32 or float64.
      kernel: `[3, 3, in, out]`, of the same dtype.

    Returns:
      `[R, H, W, out]`.
    """
    kernels = _transform_kernel(kernel)

    def convolve_group(x: jax.Array) -> jax.Array:
        products = [
            [window @ kernel for window, kernel in zip(*pair, strict=True)]
            for pair in zip(_transform_input(x), kernels, strict=True)
        ]
        (a, b), (c, d) = _apply(_collect, products)  # the places of a tile
        rows = (jnp.concatenate(pair, axis=-1) for pair in ((a, b), (c, d)))
        tiles = jnp.stack(list(rows), axis=2)
        count, high, _, wide, _ = tiles.shape
        return tiles.reshape(count, 2 * high, 2 * wide, -1)[:, : x.shape[1], : x.shape[2]]

    groups = jax.lax.map(convolve_group, split_rows(x, GROUP_VALUES // x[0].size))
    return groups.reshape(*x.shape[:-1], kernel.shape[-1])


def differentiate_input(kernel: jax.Array, gradient: jax.Array) -> jax.Array:
    """Returns the gradient of the input, `[R, H, W, in]`, for that of the output, `[R, H, W, out]`."""
    return convolve(gradient, kernel[::-1, ::-1].swapaxes(2, 3))


def differentiate_kernel(x: jax.Array, gradient: jax.Array) -> jax.Array:
    """Returns the gradient of the kernel, for the input `[R, H, W, in]` and the gradient of the output."""
    group = GROUP_VALUES // x[0].size
    inputs, gradients = split_rows(x, group), split_rows(gradient, group)

    def add_group(number: jax.Array, total: Grid) -> Grid:
        grids = total, _transform_input(inputs[number]), _transform_gradient(gradients[number])
        return [
            [place + multiply_pixels(*pair) for place, *pair in zip(*rows, strict=True)]
            for rows in zip(*grids, strict=True)
        ]

    zeros = jnp.zeros((x.shape[-1], gradient.shape[-1]), x.dtype)
    total = jax.lax.fori_loop(0, len(inputs), add_group, [[zeros] * 4 for _ in range(4)])
    return jnp.stack([jnp.stack(row) for row in _apply(_narrow, total)])


def _transform_input(x: jax.Array) -> Grid:
    """Returns `B^T d B` of all windows, `[R, H, W, C] ->` 4 x 4 arrays `[R, ceil(H / 2), ceil(W / 2), C]`."""
    high, wide = _count_tiles(x)
    padded = jnp.pad(x, [(0, 0), (1, 1 + 2 * high - x.shape[1]), (1, 1 + 2 * wide - x.shape[2]), (0, 0)])
    windows = [
        [padded[:, row : row + 2 * high - 1 : 2, column : column + 2 * wide - 1 : 2] for column in range(4)]
        for row in range(4)
    ]
    return _apply(_subtract, windows)


def _transform_gradient(gradient: jax.Array) -> Grid:
    """Returns `A dy A^T` of all tiles, `[R, H, W, C] ->` 4 x 4 arrays `[R, ceil(H / 2), ceil(W / 2), C]`."""
    high, wide = _count_tiles(gradient)
    padded = jnp.pad(
        gradient, [(0, 0), (0, 2 * high - gradient.shape[1]), (0, 2 * wide - gradient.shape[2]), (0, 0)]
    )
    return _apply(_spread, [[padded[:, row::2, column::2] for column in range(2)] for row in range(2)])


def _transform_kernel(kernel: jax.Array) -> Grid:
    """Returns `G k G^T`, `[3, 3, in, out] ->` 4 x 4 arrays `[in, out]`."""
    return _apply(_widen, [list(row) for row in kernel])


def _count_tiles(x: jax.Array) -> tuple[int, int]:
    """Returns the number of tiles down and across an image."""
    return -(-x.shape[1] // 2), -(-x.shape[2] // 2)


def _apply(matrix: Callable[..., Sequence[jax.Array]], grid: Sequence[Sequence[jax.Array]]) -> Grid:
    """Multiplies a grid by a matrix from the left, and by its transpose from the right."""
    columns = (matrix(*column) for column in zip(*grid, strict=True))
    return [list(matrix(*row)) for row in zip(*columns, strict=True)]


def _subtract(a, b, c, d):  # B^T
    return a - c, b + c, c - b, b - d


def _collect(a, b, c, d):  # A^T
    return a + b + c, b - c - d


def _spread(a, b):  # A
    return a, a + b, a - b, -b


def _widen(a, b, c):  # G
    return a, (a + b + c) / 2, (a - b + c) / 2, c


def _narrow(a, b, c, d):  # G^T
    return a + (b + c) / 2, (b - c) / 2, (b + c) / 2 + d
