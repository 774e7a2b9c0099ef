"""Helpers of comparisons with torch: random parameters, and gradients that the weight table maps to torch's."""

import numpy as np
import torch

from jaxft.hub.weights import load_weights


def randomize(model: torch.nn.Module, seed: int) -> None:
    """Makes every parameter random: a fresh model's biases of 0 and scales of 1 would hide mix-ups."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))


def assert_gradients_equal_torch(table, ours, theirs, abstract):
    """Asserts that gradients equal torch's, which the table maps as it maps weights."""
    expected, _ = load_weights(table, theirs, abstract)
    total = np.sqrt(sum(float((g**2).sum()) for g in expected.values()))
    for path, gradient in expected.items():
        error = np.linalg.norm(ours[path] - gradient)
        # A key's bias has no gradient in exact arithmetic, only rounding: hence the second term.
        assert error <= 1e-3 * np.linalg.norm(gradient) + 1e-6 * total, path
