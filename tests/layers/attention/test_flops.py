"""FLOPs of attention are those of the keys that each implementation multiplies a query with."""

import pytest

from jaxft.layers.attention.flops import count_products
from jaxft.layers.attention.interface import Visibility


@pytest.mark.parametrize(
    ("name", "length", "window", "keys"),
    [
        ("dense", 8192, None, 8192),
        ("dense", 8192, 64, 8192),
        ("chunked", 8192, None, 8192),
        ("chunked", 8192, 64, 64 + 2 * 64),
        ("chunked", 8192, 300, 4 * 256),  # 256 queries and 300 keys on both sides, in chunks
        ("chunked", 128, 64, 128),
        ("flash", 8192, None, 8192),
        ("flash", 8192, 64, 3 * 64),
        ("flash", 8192, 65, 5 * 64),
        ("splash", 8192, 64, 3 * 512),
        ("splash", 1024, 64, 1024),
    ],
)
def test_keys_of_a_query(name, length, window, keys):
    assert count_products(name, length, Visibility(window=window)) == 2 * keys


def test_causal_attention_counts_as_if_it_saw_all():
    for window in (None, 64):
        counts = {count_products("chunked", 2048, Visibility(causal, window)) for causal in (False, True)}
        assert len(counts) == 1


@pytest.mark.parametrize(("name", "distances"), [("dense", 2 * 2048), ("chunked", 8 * 2 * 256)])
def test_products_with_positions(name, distances):
    both = count_products(name, 2048, Visibility(), relative_products=2)
    assert both == 2 * 2048 + 2 * distances
