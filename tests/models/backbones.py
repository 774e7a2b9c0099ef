"""Checks that every backbone must pass; its logits and gradients are functions of (parameters, batch, seed)."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

from jaxft.layers import parameter_paths
from jaxft.layers.dropout import DropoutSeed
from jaxft.layers.runtime import Runtime
from jaxft.models.model_config import ModelConfig

LENGTH, VOCABULARY, LABELS = 12, 31, 5
# Fields of every family's config.
TINY = {
    "vocab_size": VOCABULARY,
    "hidden_size": 24,
    "num_layers": 2,
    "num_heads": 4,
    "intermediate_size": 40,
    "max_positions": LENGTH,
}


def configure(config: ModelConfig, **options) -> tuple[ModelConfig, Runtime]:
    """Returns `config` and a runtime, changed by options, which are fields of either."""
    names = {field.name for field in dataclasses.fields(Runtime)}
    runtime = Runtime(**{name: value for name, value in options.items() if name in names})
    fields = {name: value for name, value in options.items() if name not in names}
    return dataclasses.replace(config, **fields), runtime


def random_batch(rows: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Returns rows of two segments and some padding."""
    rng = np.random.default_rng(seed)
    border, end = rng.integers(2, 6, (rows, 1)), rng.integers(7, LENGTH + 1, (rows, 1))
    column = np.arange(LENGTH)[None, :]
    return {
        "input_ids": rng.integers(0, VOCABULARY, (rows, LENGTH)).astype(np.int32),
        "segment_ids": np.where(column < border, 1, np.where(column < end, 2, 0)).astype(np.int32),
        "positions": np.where(column < border, column, column - border).astype(np.int32),
        "token_type_ids": rng.integers(0, 2, (rows, LENGTH)).astype(np.int32),
        "labels": rng.integers(0, LABELS, (rows, LENGTH)).astype(np.int32),
    }


def assert_same(actual, expected, rtol=2e-4, atol=2e-5):
    """Asserts that two trees of gradients agree, each leaf to `rtol` of its largest value."""
    for path, value in parameter_paths.flatten(expected).items():
        scale = np.abs(np.asarray(value)).max()
        np.testing.assert_allclose(
            parameter_paths.flatten(actual)[path], value, atol=atol + rtol * scale, rtol=0, err_msg=path
        )


# Lengths of a row's segments.
SEGMENTS = st.lists(st.integers(1, LENGTH), min_size=0, max_size=4).filter(lambda x: sum(x) <= LENGTH)


def assert_packed_is_unpacked(gradients, parameters, rows, seed, *, atol):
    """Asserts that two rows of segments have the logits and gradients of one segment a row.

    gradients: returns (gradients, logits).
    """
    rng = np.random.default_rng(seed)
    names = random_batch(1)
    packed = {name: np.zeros((2, LENGTH), np.int32) for name in names}
    unpacked = {name: np.zeros((8, LENGTH), np.int32) for name in names}
    places = []
    for row, lengths in enumerate(rows):
        start = 0
        for segment, length in enumerate(lengths, start=1):
            values = {
                "input_ids": rng.integers(0, VOCABULARY, length),
                "positions": np.arange(length),
                "token_type_ids": rng.integers(0, 2, length),
                "labels": rng.integers(0, LABELS, length),
            }
            for name, value in values.items():
                packed[name][row, start : start + length] = value
                unpacked[name][len(places), :length] = value
            packed["segment_ids"][row, start : start + length] = segment
            unpacked["segment_ids"][len(places), :length] = 1
            places.append((row, start, length))
            start += length
    packed_gradients, packed_logits = gradients(parameters, packed, None)
    unpacked_gradients, unpacked_logits = gradients(parameters, unpacked, None)
    for index, (row, start, length) in enumerate(places):
        np.testing.assert_allclose(
            packed_logits[row, start : start + length], unpacked_logits[index, :length], atol=atol
        )
    assert np.isfinite(packed_logits).all()
    assert_same(packed_gradients, unpacked_gradients)


def assert_scan_and_remat_agree(compiled, parameters, *, atol):
    """Asserts that loops, unrolled layers and remat agree, with dropout on, and that remat saves memory.

    compiled: makes the gradients' function from options.
    """
    batch, seed = random_batch(64), DropoutSeed(jnp.uint32(5), jnp.int32(0))

    def compute(**options):
        executable = compiled(**options).lower(parameters, batch, seed).compile()
        return *executable(parameters, batch, seed), executable.memory_analysis().temp_size_in_bytes

    plain_gradients, plain_logits, plain_memory = compute()
    memory = {}
    for remat, unroll in [("none", True), ("dots", False), ("full", False), ("full", True)]:
        gradients, logits, memory[remat, unroll] = compute(remat=remat, unroll=unroll)
        np.testing.assert_allclose(logits, plain_logits, atol=atol)
        assert_same(gradients, plain_gradients)
    assert memory["full", False] < memory["dots", False] < plain_memory


def assert_bfloat16_is_close(forward, parameters, seed):
    """Asserts that logits computed in bfloat16 are float32 and near the exact ones.

    forward: makes the logits' function from options.
    """
    batch = random_batch(8)
    exact = forward()(parameters, batch, seed)
    logits = forward(dtype=jnp.bfloat16)(parameters, batch, seed)
    assert logits.dtype == jnp.float32
    error = np.abs(logits - exact)[batch["segment_ids"] > 0].max()
    assert 0 < error < 0.05 * np.abs(exact).max()
