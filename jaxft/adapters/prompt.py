"""Prompt tuning (Lester et al. 2021): trains vectors in place of the embeddings of P tokens before each text.

Windows begin with P slots for them, whose ids are below 0; see `data.encoding.windows.add_prompt`.
"""

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from flax import nnx

from jaxft.adapters.base import Method
from jaxft.config.adapter import Adapter as AdapterSettings
from jaxft.layers.heads.backbone import AdaptableBackbone
from jaxft.layers.parameters import Kind, Role, make_parameter

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

EMBEDDING = "backbone/embeddings/word/adapter/embedding"  # the path of the vectors


class Prompt(nnx.Module):
    """The adapter of the embedding of words: `embedding`, `[P, D]`, has the vectors of the ids -1, -2, ..., -P.

    New vectors are PEFT's, from the standard normal distribution.
    """

    def __init__(self, count: int, size: int, *, rngs: nnx.Rngs):
        vectors = jax.random.normal(rngs.params(), (count, size))
        self.embedding = make_parameter(vectors, Role(Kind.ADAPTER, reads_tokens=False))
        self.count = count

    def __call__(self, ids: jax.Array, look_up: Callable[[jax.Array], jax.Array]) -> jax.Array:
        """Returns the vectors of ids, int32 `[N]` -> `[N, D]`."""
        words = jnp.where(ids[:, None] < 0, 0, look_up(jnp.maximum(ids, 0)))
        # A product, because its gradient is one too, and that of a look-up would be a slow sum of single vectors.
        is_vector = ids[:, None] == -1 - jnp.arange(self.count, dtype=ids.dtype)
        return words + jnp.matmul(
            is_vector.astype(words.dtype), self.embedding[...], precision=jax.lax.Precision.HIGHEST
        )


def attach(backbone: AdaptableBackbone, settings: AdapterSettings, rngs: nnx.Rngs) -> None:
    """Gives the embedding of a backbone's words the vectors of a prompt."""
    word = backbone.embeddings.word
    word.adapter = Prompt(settings.num_virtual_tokens, word.embedding.shape[1], rngs=rngs)


def choose_first_tokens(tokenizer: "PreTrainedTokenizerBase", text: str, count: int) -> list[int]:
    """Returns the ids of `count` tokens whose embeddings a prompt begins with, as PEFT does: the text, over and over.

    Special tokens belong to it.
    """
    return list(itertools.islice(itertools.cycle(tokenizer(text)["input_ids"]), count))


METHOD = Method(attach=attach, adapter=Prompt)
