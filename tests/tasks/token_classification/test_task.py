"""Tests the loss of words' labels beyond cross-entropy, which tests/losses has."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxft.data.batching.batch import INPUTS
from jaxft.layers.dropout import DropoutSeed
from jaxft.losses import cross_entropy
from jaxft.tasks.registry import make_task
from jaxft.training.settings import settings_from_config


def test_r_drop_is_the_mean_of_two_passes_and_their_divergence_over_labelled_words():
    """The model is a stand-in whose logits depend on the seed and are infinite where there is no word."""
    changes = {"loss.r_drop": 0.7, "loss.class_weights": (("O", 0.5),)}
    values = settings_from_config({"task": "token_classification"} | changes)
    task, rng = make_task(["O", "B-X", "I-X"], values, head_dropout=0.1), np.random.default_rng(0)
    weights = jnp.asarray([[0, 1, 1, 0, 1], [1, 0, 0, 0, 0]], jnp.float32)
    labels = jnp.asarray(rng.integers(0, 3, (2, 5)), jnp.int32)
    batch = {"labels": labels, "weights": weights} | dict.fromkeys(INPUTS)
    logits = {}

    def model(*_, dropout):
        key = None if dropout is None else int(dropout.seed)
        values = jnp.where(weights[..., None] > 0, rng.normal(size=(2, 5, 3)), jnp.inf)
        return logits.setdefault(key, values)

    total, weight = task.loss(model, batch, DropoutSeed(jnp.uint32(1), jnp.int32(0)))
    first, second = logits.values()
    losses = [
        cross_entropy.cross_entropy(x, labels, weights, class_weights=jnp.array([0.5, 1, 1]))
        for x in (first, second)
    ]
    mean = (losses[0][0] + losses[1][0]) / 2
    divergence = cross_entropy.symmetric_divergence(first, second, weights)
    assert float(total) == pytest.approx(float(mean + 0.7 * divergence)) and weight == losses[0][1]
    assert float(divergence) > 0.1
    task.loss(model, batch, None)
    assert len(logits) == 3  # without dropout there is only one pass
