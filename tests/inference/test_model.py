"""Predictions take batches of a few shapes, which devices divide."""

import pytest

from jaxft.inference.model import list_batch_shapes


@pytest.mark.parametrize(
    ("arguments", "sizes"),
    [
        ((32, 128, 1), [(1, 128), (4, 128), (32, 128)]),
        ((32, 512, 1), [(1, 128), (1, 512), (4, 512), (32, 512)]),
        ((32, 512, 8), [(8, 128), (8, 512), (32, 512)]),
        ((4, 8192, 1), [(1, 128), (1, 512), (1, 2048), (1, 8192), (4, 8192)]),
        ((6, 64, 3), [(3, 64), (6, 64)]),
        ((1, 64, 1), [(1, 64)]),
    ],
)
def test_shapes_of_batches(arguments, sizes):
    shapes = list_batch_shapes(*arguments)
    assert [(shape.rows, shape.length) for shape in shapes] == sizes
    assert all(shape.rows % arguments[2] == 0 and shape.blocks.length == 0 for shape in shapes)
