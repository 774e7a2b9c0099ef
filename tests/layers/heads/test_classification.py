"""The head of labels drops where transformers' classes do, and computes at least in float32."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxft.layers.dropout import HEAD_SITE
from jaxft.layers.heads import classification
from jaxft.layers.heads.classification import ClassificationHead, HeadForm

RATE = 0.3


@pytest.mark.parametrize(
    ("form", "sites"),
    [
        (HeadForm(), [(HEAD_SITE, "input", RATE)]),  # as BERT's
        (HeadForm("tanh"), [(HEAD_SITE, "input", RATE), (HEAD_SITE + 1, "dense", RATE)]),  # as RoBERTa's
        # As DistilBERT's and DeBERTa's.
        (
            HeadForm("relu", input_dropout=0.0),
            [(HEAD_SITE, "input", 0.0), (HEAD_SITE + 1, "dense", RATE)],
        ),
        # As ModernBERT's.
        (
            HeadForm("gelu", norm_epsilon=1e-5, input_dropout=0.0, has_norm_bias=False, has_dense_bias=False),
            [(HEAD_SITE, "input", 0.0), (HEAD_SITE + 1, "norm", RATE)],
        ),
    ],
)
def test_dropout_is_where_transformers_has_it_with_masks_of_their_own(form, sites, monkeypatch):
    head = ClassificationHead(4, 3, form, initializer_range=0.5, rngs=nnx.Rngs(0))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 4)), jnp.bfloat16)
    seen = []

    def drop(values, rate, seed, site, *, rows):
        is_normal = np.allclose(values.mean(axis=-1), 0, atol=1e-5)
        seen.append((site, "input" if values is x else "norm" if is_normal else "dense", rate))
        return values

    monkeypatch.setattr(classification, "apply_dropout", drop)
    scores = head(x, RATE, None, rows=1)
    assert seen == sites
    assert scores.shape == (5, 3) and scores.dtype == jnp.float32
