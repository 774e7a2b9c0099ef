"""The head of texts drops where transformers' classes do, and computes at least in float32."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxft.layers.dropout import HEAD_SITE
from jaxft.layers.heads.sequence import HeadForm, SequenceHead


@pytest.mark.parametrize(
    ("form", "sites"),
    [
        (HeadForm(), [(HEAD_SITE, "input")]),  # as BERT's
        (HeadForm("tanh"), [(HEAD_SITE, "input"), (HEAD_SITE + 1, "dense")]),  # as RoBERTa's
        (HeadForm("relu", drops_input=False), [(HEAD_SITE + 1, "dense")]),  # as DistilBERT's
    ],
)
def test_dropout_is_where_transformers_has_it_with_masks_of_their_own(form, sites):
    head = SequenceHead(4, 3, form, initializer_range=0.5, rngs=nnx.Rngs(0))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 4)), jnp.bfloat16)
    seen = []

    def drop(values, site):
        seen.append((site, "input" if values is x else "dense"))
        return values

    scores = head(x, drop)
    assert seen == sites
    assert scores.shape == (5, 3) and scores.dtype == jnp.float32
