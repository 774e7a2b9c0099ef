"""Decodes with GPT-2: reads entire prompts, then one token of each row per step, with cached keys and values.

It computes the same numbers as network.py, but with other code. The time of a step with few rows is the time to read
the weights. On CPU a product `W [out, in] @ x [in, R]` reads them two to four times as fast as
`x [R, in] @ W [in, out]`. The activations of a step are therefore columns, `[D, R]`, and the weights are transposed
once, in advance.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from jaxft.layers.activations import ACTIVATIONS
from jaxft.layers.attention.dense import dense_attention
from jaxft.layers.attention.interface import Prefix, Visibility
from jaxft.layers.attention.prefix import attend_with_prefix
from jaxft.layers.heads.backbone import Backbone, count_virtual_tokens
from jaxft.models.decoder import CachedDecoder
from jaxft.models.gpt2.config import GPT2Config
from jaxft.models.gpt2.network import GPT2


class Dense(NamedTuple):
    """A linear layer's weight `[out, in]` and bias `[out]`."""

    weight: jax.Array
    bias: jax.Array


class Norm(NamedTuple):
    """A LayerNorm's scale and bias, both float32 `[D]`."""

    scale: jax.Array
    bias: jax.Array


class Layer(NamedTuple):
    """The weights of one layer."""

    attention_norm: Norm
    query_key_value: Dense  # [3 * D, D], in this order
    output: Dense
    mlp_norm: Norm
    up: Dense
    down: Dense


class DecoderWeights(NamedTuple):
    """The weights of a decoder, in the dtype of its computation. Norms are float32."""

    word: jax.Array  # [V, D], the embeddings of tokens and the weights of the output layer
    position: jax.Array  # [max_positions - P, D], from the first position of texts
    layers: list[Layer]
    norm: Norm
    prefix: list[Prefix] | None = None  # of each layer, [P, D]: keys and values before all texts


Cache = list[tuple[jax.Array, jax.Array]]  # the keys and the values of each layer, both [R, H, T, D / H]


def _norm(x: jax.Array, parameters: Norm, epsilon: float, axis: int) -> jax.Array:
    """Normalizes `x` over `axis`, computing in float32."""
    z = x.astype(jnp.float32)
    z -= z.mean(axis=axis, keepdims=True)
    z *= jax.lax.rsqrt(jnp.square(z).mean(axis=axis, keepdims=True) + epsilon)
    scale, bias = (p[:, None] if axis == 0 else p for p in parameters)
    return (z * scale + bias).astype(x.dtype)


def _rows(dense: Dense, x: jax.Array) -> jax.Array:
    """Applies a linear layer to rows: `[M, in] -> [M, out]`."""
    return jax.lax.dot_general(x, dense.weight, (((1,), (1,)), ((), ()))) + dense.bias


def _columns(dense: Dense, x: jax.Array) -> jax.Array:
    """Applies a linear layer to columns: `[in, R] -> [out, R]`."""
    return dense.weight @ x + dense.bias[:, None]


def _scores(weights: DecoderWeights, x: jax.Array) -> jax.Array:
    """Returns logits, float32 `[V, R]`, for columns `[D, R]`."""
    logits = jnp.matmul(weights.word, x, preferred_element_type=jnp.float32)
    # Without a barrier XLA would merge a caller's transpose into the product and so undo this order.
    return jax.lax.optimization_barrier(logits)


def _mix(query: jax.Array, scores: jax.Array, values: jax.Array, prefix: Prefix | None) -> jax.Array:
    """Returns what attention mixes of the values of each row and of the prefix, `[R, H, d]`.

    Args:
      query: the scaled queries, `[R, H, d]`.
      scores: those of the keys of each row, float32 `[R, H, T]`.
      values: `[R, H, T, d]`.
      prefix: the keys and values that all rows share; None for none.
    """
    if prefix is None:
        return jnp.einsum("rht,rhtd->rhd", jax.nn.softmax(scores).astype(values.dtype), values)
    count, (_, heads, _) = len(prefix.keys), query.shape
    keys, more_values = (x.reshape(count, heads, -1) for x in prefix)
    more_scores = jnp.einsum("rhd,phd->rhp", query, keys, preferred_element_type=jnp.float32)
    shares = jax.nn.softmax(jnp.concatenate([more_scores, scores], axis=2)).astype(values.dtype)
    mixed = jnp.einsum("rht,rhtd->rhd", shares[..., count:], values)
    return mixed + jnp.einsum("rhp,phd->rhd", shares[..., :count], more_values)


@dataclasses.dataclass(frozen=True)
class GPT2Decoder(CachedDecoder[DecoderWeights, Cache]):
    """Decodes with a GPT-2 of a shape."""

    config: GPT2Config

    def prepare_weights(self, backbone: Backbone) -> DecoderWeights:
        """Returns the decoder's weights, in the dtype of the backbone's computation."""
        assert isinstance(backbone, GPT2)
        graph, state = nnx.split(backbone)
        dtype = backbone.runtime.dtype

        @jax.jit
        def transpose_weights(state) -> DecoderWeights:
            backbone = nnx.merge(graph, state)
            stack = backbone.layers

            def dense(index: int, *linears) -> Dense:
                return Dense(
                    jnp.concatenate([linear.kernel[...][index].T for linear in linears]).astype(dtype),
                    jnp.concatenate([linear.bias[...][index] for linear in linears]).astype(dtype),
                )

            def norm(module, index=...) -> Norm:
                return Norm(module.scale[...][index], module.bias[...][index])

            weights = DecoderWeights(
                word=backbone.embeddings.word.embedding[...].astype(dtype),
                position=backbone.embeddings.position.embedding[...].astype(dtype),
                layers=[
                    Layer(
                        attention_norm=norm(stack.attention_norm, i),
                        query_key_value=dense(
                            i, stack.attention.query, stack.attention.key, stack.attention.value
                        ),
                        output=dense(i, stack.attention.output),
                        mlp_norm=norm(stack.mlp_norm, i),
                        up=dense(i, stack.mlp.up),
                        down=dense(i, stack.mlp.down),
                    )
                    for i in range(backbone.config.num_layers)
                ],
                norm=norm(backbone.norm),
            )
            return self._add_prefix(weights, backbone)

        return transpose_weights(state)

    def _add_prefix(self, weights: DecoderWeights, backbone: GPT2) -> DecoderWeights:
        """Returns the weights with the prefix that adapters give the backbone.

        A prompt is a prefix too: no text changes the keys and values of what is before it.
        """
        count, prompt = count_virtual_tokens(backbone), backbone.embeddings.word.adapter
        if not count:
            return weights
        dtype = weights.word.dtype
        prefix: Cache = []
        if backbone.adapter is not None:
            prefix = list(zip(*backbone.adapter(), strict=True))
        elif prompt is not None:
            x = prompt(-1 - jnp.arange(count), backbone.embeddings.word.look_up).astype(dtype)
            x = x + weights.position[:count]
            _, prefix = self._run_layers(weights, x, jnp.ones((1, count), jnp.int32))
        return weights._replace(
            prefix=[Prefix(keys.astype(dtype), values.astype(dtype)) for keys, values in prefix],
            position=weights.position[count:],
        )

    def prefill(
        self, weights: DecoderWeights, ids: jax.Array, start: jax.Array, capacity: int
    ) -> tuple[jax.Array, Cache]:
        """Reads prompts; see `CachedDecoder`."""
        config = self.config
        rows, length = ids.shape
        columns = jnp.arange(length)
        positions = jnp.maximum(columns - start[:, None], 0)
        segments = (columns >= start[:, None]).astype(jnp.int32)
        x = (weights.word[ids] + weights.position[positions]).reshape(rows * length, -1)
        x, pairs = self._run_layers(weights, x, segments)
        heads = (
            (z.reshape(rows, length, config.num_heads, -1).swapaxes(1, 2) for z in pair) for pair in pairs
        )
        room = ((0, 0), (0, 0), (0, capacity - length), (0, 0))
        cache = [(jnp.pad(keys, room), jnp.pad(values, room)) for keys, values in heads]
        last = x.reshape(rows, length, -1)[:, -1].T
        return _scores(weights, _norm(last, weights.norm, config.layer_norm_eps, 0)), cache

    def _run_layers(
        self, weights: DecoderWeights, x: jax.Array, segments: jax.Array
    ) -> tuple[jax.Array, Cache]:
        """Runs entire texts through all layers.

        Args:
          weights: the decoder's weights.
          x: `[R * L, D]`.
          segments: int32 `[R, L]`, 1 at texts and 0 at padding.

        Returns:
          The last layer's output, and the keys and values of each layer, `[R * L, D]`.
        """
        config, visibility, pairs = self.config, Visibility(causal=True), []
        for index, layer in enumerate(weights.layers):
            projected = _rows(layer.query_key_value, _norm(x, layer.attention_norm, config.layer_norm_eps, 1))
            query, key, value = jnp.split(projected, 3, axis=1)
            if config.scale_by_inverse_layer:
                query = query / (index + 1)
            attend = dense_attention
            if weights.prefix is not None:
                attend = functools.partial(attend_with_prefix, dense_attention, prefix=weights.prefix[index])
            mixed = attend(query, key, value, segments, num_heads=config.num_heads, visibility=visibility)
            x = x + _rows(layer.output, mixed)
            inner = _rows(layer.up, _norm(x, layer.mlp_norm, config.layer_norm_eps, 1))
            x = x + _rows(layer.down, ACTIVATIONS[config.activation](inner))
            pairs.append((key, value))
        return x, pairs

    def decode_step(
        self, weights: DecoderWeights, cache: Cache, ids: jax.Array, start: jax.Array, column: jax.Array
    ) -> tuple[jax.Array, Cache]:
        """Reads one token of each row; see `CachedDecoder`."""
        config = self.config
        rows, capacity = len(ids), cache[0][0].shape[2]
        columns = jnp.arange(capacity)
        is_visible = ((columns >= start[:, None]) & (columns <= column))[:, None]  # [R, 1, T]
        x = (weights.word[ids] + weights.position[column - start]).T
        filled = []
        for index, (layer, (keys, values)) in enumerate(zip(weights.layers, cache, strict=True)):
            projected = _columns(
                layer.query_key_value, _norm(x, layer.attention_norm, config.layer_norm_eps, 0)
            )
            query, key, value = projected.T.reshape(rows, 3, config.num_heads, -1).swapaxes(
                0, 1
            )  # each [R, H, d]
            keys = jax.lax.dynamic_update_slice(keys, key[:, :, None], (0, 0, column, 0))
            values = jax.lax.dynamic_update_slice(values, value[:, :, None], (0, 0, column, 0))
            filled.append((keys, values))
            scale = query.shape[-1] ** -0.5 / (index + 1 if config.scale_by_inverse_layer else 1)
            scores = jnp.einsum("rhd,rhtd->rht", query * scale, keys, preferred_element_type=jnp.float32)
            scores = jnp.where(is_visible, scores, -jnp.inf)
            prefix = None if weights.prefix is None else weights.prefix[index]
            mixed = _mix(query * scale, scores, values, prefix)
            x = x + _columns(layer.output, mixed.reshape(rows, -1).T)
            inner = _columns(layer.up, _norm(x, layer.mlp_norm, config.layer_norm_eps, 0))
            x = x + _columns(layer.down, ACTIVATIONS[config.activation](inner))
        return _scores(weights, _norm(x, weights.norm, config.layer_norm_eps, 0)), filled
