"""Counts the products of attention, as each implementation computes them, and names loops so that others can."""

import contextlib

import jax

from jaxft.layers.attention.interface import Visibility

MOST_TRIPS = "most_trips_"  # the begin of the name of a loop, before the number


def named_loop(most: int) -> contextlib.AbstractContextManager[None]:
    """Returns a context in which to make a loop whose trips depend on data, and are at most `most`.

    The compiled program has its name, by which `jaxft plan` knows how often it may run.
    """
    return jax.named_scope(f"{MOST_TRIPS}{most}")


def count_products(name: str, length: int, visibility: Visibility, relative_products: int = 0) -> int:
    """Returns how many vectors of a head's width a query is multiplied with, or sums, in the forward pass.

    These are the keys and values that the implementation computes for a query, seen or not, and the positions of
    relative products, whether they are multiplied with queries or with keys. What the backward pass computes again is
    not counted, and causal attention counts as if it saw later positions, as in Chowdhery et al. (2022), appendix B.

    Args:
      name: the implementation.
      length: L, the number of slots in a row.
      visibility: which positions of its segment a query sees.
      relative_products: the number of products with positions that scores add.
    """
    del name, visibility  # all multiply all pairs
    return 2 * length + relative_products * (2 * length - 1)
