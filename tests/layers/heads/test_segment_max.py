"""The largest states of segments are those of a masked maximum, as are gradients, without an array of all pairs."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.layers.heads.segment_max import segment_max


def masked_max(x, segment_ids, segments):
    member = segment_ids[:, None] == jnp.arange(1, segments + 1)[None, :, None]
    largest = jnp.max(jnp.where(member[..., None], x[:, None], jnp.finfo(x.dtype).min), axis=2)
    return jnp.where(member.any(axis=-1)[..., None], largest, 0)


def test_largest_states_and_gradients_with_ties_are_those_of_a_masked_maximum():
    ids = jnp.asarray([[1] * 5 + [2] + [3] * 6 + [0], [1] * 13], jnp.int32)
    last, exists = jnp.asarray([[4, 5, 11], [12, 0, 0]]), jnp.asarray([[True] * 3, [True, False, False]])
    numbers = np.random.default_rng(0)
    x = jnp.asarray(numbers.integers(-3, 3, (2, 13, 4)), jnp.float32)
    weights = jnp.asarray(numbers.normal(size=(2, 3, 4)), jnp.float32)

    def sum_of(pool):
        return jax.jit(jax.value_and_grad(lambda x: jnp.sum(weights * pool(x))))(x)

    ours = sum_of(lambda x: jnp.where(exists[..., None], segment_max(x, ids, last), 0))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6),
        ours,
        sum_of(lambda x: masked_max(x, ids, 3)),
    )


def test_memory_does_not_grow_with_the_square_of_rows():
    rows, segments, length, width = 1, 64, 512, 32
    shapes = [
        ((rows, length, width), jnp.float32),
        ((rows, length), jnp.int32),
        ((rows, segments), jnp.int32),
    ]
    gradient = jax.jit(jax.grad(lambda *arrays: jnp.sum(segment_max(*arrays) ** 2)))
    compiled = gradient.lower(*(jax.ShapeDtypeStruct(*shape) for shape in shapes)).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * rows * segments * length * width / 4
