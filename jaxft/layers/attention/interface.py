"""Defines what networks ask of attention; the implementations are next to this file, and choice.py chooses one."""

import contextlib
import contextvars
import dataclasses
import enum
from collections.abc import Iterator
from typing import NamedTuple, Protocol

import jax

from jaxft.layers.dropout import DropoutSeed


class Feature(enum.Enum):
    """Lists what networks ask of attention, beyond segments. Messages say by a value what an implementation lacks."""

    CAUSAL = "hides no later positions"
    WINDOW = "has no windows"
    RELATIVE_BIAS = "adds no bias to scores"
    RELATIVE_PRODUCTS = "adds no products with positions to scores"
    DROPOUT = "has no dropout of attention weights"
    PREFIX = "takes no prefix"


@dataclasses.dataclass(frozen=True)
class Visibility:
    """Says which positions of its segment a query sees.

    Attributes:
      causal: whether later positions are hidden.
      window: the largest distance of a position that is seen, before and after the query; None for all distances.
    """

    causal: bool = False
    window: int | None = None


EVERYTHING = Visibility()  # the entire segment


class RelativeTerms(NamedTuple):
    """Holds what the distance of a query and a key adds to their score.

    The arrays have an entry for each distance in rows of L slots, at key - query + L - 1. Slots of a segment are as far
    from each other as its positions, so packed rows need no other terms.

    Attributes:
      bias: float32 `[H, 2 * L - 1]`, added after scaling (Raffel et al., 2020, section 2.1).
      keys: `[2 * L - 1, D]`; their products with queries are added before scaling (He et al., 2021, equation 4:
        content to position).
      queries: `[2 * L - 1, D]`; their products with keys are added before scaling (position to content).
    """

    bias: jax.Array | None = None
    keys: jax.Array | None = None
    queries: jax.Array | None = None


class Prefix(NamedTuple):
    """Holds keys and values that every query of a layer sees, besides those of its segment (Li & Liang, 2021).

    Distances to a prefix add nothing to scores, and windows don't hide it.

    Attributes:
      keys, values: `[P, D]`; those of a stack of layers have one more dimension in front.
    """

    keys: jax.Array
    values: jax.Array


class BackboneAdapter(Protocol):
    """Adds a prefix to all layers of a backbone. It is a module of flax.

    Attributes:
      count: P, the number of keys of the prefix.
    """

    count: int

    def __call__(self) -> Prefix:
        """Returns the prefix of each layer, `[layers, P, D]`."""


_layer_prefix: contextvars.ContextVar[Prefix | None] = contextvars.ContextVar("layer_prefix", default=None)


@contextlib.contextmanager
def layer_prefix(prefix: Prefix | None) -> Iterator[None]:
    """Says, while a layer is traced, which prefix its queries see, because networks do not know of prefixes."""
    token = _layer_prefix.set(prefix)
    try:
        yield
    finally:
        _layer_prefix.reset(token)


def current_prefix() -> Prefix | None:
    """Returns the prefix of the layer that is traced; None if it has none."""
    return _layer_prefix.get()


def features_of(
    visibility: Visibility,
    relative: RelativeTerms | None,
    seed: DropoutSeed | None,
    prefix: Prefix | None = None,
) -> frozenset[Feature]:
    """Returns the features that a call of `Attention` asks for; `seed` is None for no dropout."""
    terms = RelativeTerms() if relative is None else relative
    asked = {
        Feature.CAUSAL: visibility.causal,
        Feature.WINDOW: visibility.window is not None,
        Feature.RELATIVE_BIAS: terms.bias is not None,
        Feature.RELATIVE_PRODUCTS: terms.keys is not None or terms.queries is not None,
        Feature.DROPOUT: seed is not None,
        Feature.PREFIX: prefix is not None,
    }
    return frozenset(feature for feature, is_asked in asked.items() if is_asked)


class Attention(Protocol):
    """Computes multi-head scaled dot-product attention within segments (Vaswani et al., 2017, equation 1)."""

    def __call__(
        self,
        q: jax.Array,
        k: jax.Array,
        v: jax.Array,
        segment_ids: jax.Array,
        *,
        num_heads: int,
        visibility: Visibility = EVERYTHING,
        relative: RelativeTerms | None = None,
        rate: float = 0.0,
        seed: DropoutSeed | None = None,
        site: int | jax.Array = 0,
    ) -> jax.Array:
        """Computes attention.

        A position sees the positions of its row that have the same segment id, as far as `visibility` says. Padding is
        segment 0. It sees only padding, so its output is finite, and no other segment sees it. All positions see the
        prefix of the layer; see `layer_prefix`. Scores and softmax are float32, or float64 if q is.

        Args:
          q, k, v: flat `[R * L, D]`; the heads are next to each other in D.
          segment_ids: int32 `[R, L]`; a segment's slots are next to each other.
          num_heads: H, which divides D.
          visibility: which positions of its segment a query sees.
          relative: what distances add to scores; None for nothing. Scores are divided by sqrt(d * n), where d is the
            width of a head, and n is 1 + the number of products with positions.
          rate, seed, site: dropout of the attention weights, `[R, H, L, L]` by (row, head, query, key); see
            `apply_dropout`.

        Returns:
          `[R * L, D]` in q's dtype.
        """
