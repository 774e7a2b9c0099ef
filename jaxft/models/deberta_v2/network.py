"""Defines DeBERTa-v2 and -v3 (He et al., 2021 and 2023): BERT's layers, with attention that knows distances.

A word is two vectors in DeBERTa, its content and its position, and attention is disentangled (He et al., 2021, section
3.1): a score is the sum of three products, of a query with a key, of a query with the distance to the key, and of a
key with the distance to the query (equation 4). Distances have embeddings, the same in all layers. Version 2 puts
distances into buckets, may share the projections of words and distances, and may have a convolution next to the first
layer. Version 3 (He et al., 2023) is the same network, pretrained like ELECTRA.

Distances are those within a segment, so a text has the same states in a packed row as alone. In shapes, R is the number
of rows, L the number of positions in a row, D the hidden size, E the width of embeddings, and S half of the number of
embeddings of distances.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from jaxft.layers.activations import ACTIVATIONS
from jaxft.layers.attention.interface import BackboneAdapter, RelativeTerms
from jaxft.layers.dropout import SHARED_SITES, DropoutSeed, apply_dropout
from jaxft.layers.embedding import Embedding, sum_embeddings
from jaxft.layers.inputs import Inputs
from jaxft.layers.linear import Linear
from jaxft.layers.norm import LayerNorm
from jaxft.layers.output_positions import gather, locate, scatter
from jaxft.layers.parameters import SPLIT_OUTPUTS, Kind, Role, make_parameter
from jaxft.layers.precision import widen
from jaxft.layers.runtime import PLAIN_RUNTIME, Runtime
from jaxft.layers.sharding import constrain_sharding
from jaxft.layers.transformer.encoder_layer import EncoderLayer
from jaxft.layers.transformer.layer_stacks import make_stack, run_layers
from jaxft.models.deberta_v2.config import CONTENT_TO_POSITION, POSITION_TO_CONTENT, DebertaV2Config


class Embeddings(nnx.Module):
    """The sum of embeddings of words and, if there are any, of positions and token types; normalized, with dropout."""

    def __init__(self, config: DebertaV2Config, runtime: Runtime, *, rngs: nnx.Rngs):
        size = config.embedding_size or config.hidden_size
        make_table = functools.partial(
            Embedding, size=size, initializer_range=config.initializer_range, rngs=rngs
        )
        self.word = make_table(config.vocab_size, is_vocabulary=True)
        if config.has_position_embeddings:
            self.position = make_table(config.max_positions)
        if config.type_vocab_size:
            self.type = make_table(config.type_vocab_size)
        self.has_projection = size != config.hidden_size
        if self.has_projection:
            self.projection = Linear(
                size,
                config.hidden_size,
                use_bias=False,
                initializer_range=config.initializer_range,
                layout=runtime.layout,
                rngs=rngs,
            )
        self.norm = LayerNorm(config.hidden_size, epsilon=config.layer_norm_eps)
        self.config, self.runtime = config, runtime

    def __call__(self, inputs: Inputs, dropout: DropoutSeed | None) -> jax.Array:
        """Returns the embeddings `[R * L, D]` of `runtime.dtype`. Dropout has the site 0."""
        lookups = [(self.word, inputs.input_ids.ravel())]
        if self.config.has_position_embeddings:
            lookups.append((self.position, inputs.positions.ravel()))
        if self.config.type_vocab_size:
            types = inputs.token_type_ids.ravel()
            lookups.append((self.type, types if self.config.reads_token_types else jnp.zeros_like(types)))
        x = sum_embeddings(*lookups, activations=self.runtime.activations)
        if self.has_projection:
            x = self.projection(x.astype(self.runtime.dtype))
        x, rows = self.norm(x).astype(self.runtime.dtype), len(inputs.input_ids)
        return apply_dropout(x, self.config.hidden_dropout, dropout, 0, rows=rows)


def bucket_distances(distances: np.ndarray, bucket_count: int, largest: int) -> np.ndarray:
    """Returns the buckets of distances, whole numbers `[...]`, as transformers computes them.

    Each distance up to half of the buckets has its own. The others are for distances up to `largest` - 1, and grow by
    the same factor. Buckets of negative distances are negative.
    """
    half = bucket_count // 2
    slots = np.maximum(np.abs(distances), half).astype(np.float32)

    def log(x: np.floating | np.ndarray) -> np.ndarray:
        # Rounded to float32, as torch's logarithm, which decides where a bucket begins.
        return np.log(np.asarray(x, np.float32).astype(np.float64)).astype(np.float32)

    share = log(slots / np.float32(half)) / log(np.float32((largest - 1) / half))
    far = np.ceil(share * np.float32(half - 1)).astype(np.int64) + half
    return np.where(np.abs(distances) <= half, distances, np.sign(distances) * far)


def index_distances(config: DebertaV2Config, length: int) -> np.ndarray:
    """Returns the embedding of each distance in rows of `length` slots, by key - query + length - 1.

    Embeddings are numbered by query - key, from S less than 0. So the result, whole numbers `[2 * length - 1]` from 0
    to 2 * S - 1, falls. It is the same for both products: to take a distance from the key to the query in place of that
    from the query to the key changes its sign, and so does to transpose the scores.
    """
    distances = np.arange(length - 1, -length, -1)
    if config.bucket_count:
        distances = bucket_distances(distances, config.bucket_count, config.largest_distance)
    return np.clip(distances + config.span, 0, 2 * config.span - 1)


class DistanceEmbeddings(nnx.Module):
    """A table with a vector for each distance or bucket of distances, which may be normalized."""

    def __init__(self, config: DebertaV2Config, runtime: Runtime, *, rngs: nnx.Rngs):
        size = config.hidden_size
        self.table = Embedding(2 * config.span, size, initializer_range=config.initializer_range, rngs=rngs)
        if config.normalizes_distances:
            self.norm = LayerNorm(size, epsilon=config.layer_norm_eps)
        self.config, self.runtime = config, runtime

    def __call__(self, first: int, last: int) -> jax.Array:
        """Returns the embeddings with the numbers from `first` to `last`, `[last - first + 1, D]`."""
        x, activations = widen(self.table.embedding[...][first : last + 1]), self.runtime.activations
        if activations is not None:  # all devices have all of these few
            x = constrain_sharding(x, NamedSharding(activations.mesh, PartitionSpec()))
        return (self.norm(x) if self.config.normalizes_distances else x).astype(self.runtime.dtype)


class DisentangledLayer(EncoderLayer):
    """An encoder layer that projects embeddings of distances to keys and queries."""

    def __init__(self, config: DebertaV2Config, runtime: Runtime, *, rngs: nnx.Rngs):
        super().__init__(config, runtime, rngs=rngs)
        make_linear = functools.partial(
            Linear,
            config.hidden_size,
            config.hidden_size,
            initializer_range=config.initializer_range,
            layout=runtime.layout,
            axes=SPLIT_OUTPUTS,
            reads_tokens=False,
            rngs=rngs,
        )
        if not config.shares_projections:
            if CONTENT_TO_POSITION in config.products:
                self.distance_key = make_linear()
            if POSITION_TO_CONTENT in config.products:
                self.distance_query = make_linear()
        self.config = config

    def project(
        self, distances: jax.Array, index: np.ndarray, dropout: DropoutSeed | None, site: int | jax.Array
    ) -> RelativeTerms:
        """Returns what distances add to scores.

        Args:
          distances: `[n, D]`, embeddings of distances, the same for all rows.
          index: whole numbers `[2 * L - 1]`, which of them each distance has, by key - query + L - 1.
          dropout: the seed; None for no dropout.
          site: the dropout site of the embeddings.
        """
        config, shares = self.config, self.config.shares_projections
        seed = None if dropout is None else dropout._replace(first_row=jnp.int32(0))
        x = apply_dropout(distances, config.hidden_dropout, seed, site, rows=1)

        def spread(linear: Linear) -> jax.Array:
            projected = linear(x)
            if np.array_equal(index, np.arange(len(x))[::-1]):  # in short rows no distances share a bucket
                return projected[::-1]
            # The gradient sums distances of a bucket, so not in bfloat16.
            return widen(projected)[index].astype(x.dtype)

        keys = queries = None
        if CONTENT_TO_POSITION in config.products:
            keys = spread(self.attention.key if shares else self.distance_key)
        if POSITION_TO_CONTENT in config.products:
            queries = spread(self.attention.query if shares else self.distance_query)
        return RelativeTerms(keys=keys, queries=queries)


class Convolution(nnx.Module):
    """A convolution over the positions of a segment, which is added to what the first layer returns.

    The kernel is `[K, D / G, D]` for K positions and G groups of channels.
    """

    def __init__(self, config: DebertaV2Config, *, rngs: nnx.Rngs):
        size, groups = config.hidden_size, config.conv_groups
        shape = (config.conv_size, size // groups, size)
        kernel = nnx.initializers.normal(config.initializer_range)(rngs.params(), shape, jnp.float32)
        self.kernel = make_parameter(kernel, Role(Kind.KERNEL))
        self.bias = make_parameter(jnp.zeros((size,), jnp.float32), Role(Kind.BIAS))
        self.norm = LayerNorm(size, epsilon=config.layer_norm_eps)
        self.config = config

    def __call__(self, x: jax.Array, segment_ids: jax.Array, dropout: DropoutSeed | None) -> jax.Array:
        """Returns the update of the first layer's states.

        Args:
          x: `[R * L, D]`, what the first layer reads. A position reads zeros beyond its segment.
          segment_ids: int32 `[R, L]`.
          dropout: the seed; None for no dropout. The site is `SHARED_SITES`.
        """
        config, (rows, length), size = self.config, segment_ids.shape, x.shape[-1]
        groups, reach = config.conv_groups, config.conv_size // 2
        padded = jnp.pad(x.reshape(rows, length, size), ((0, 0), (reach, reach), (0, 0)))
        padded_ids = jnp.pad(segment_ids, ((0, 0), (reach, reach)), constant_values=-1)

        def read(tap: int) -> jax.Array:
            same = padded_ids[:, tap : tap + length] == segment_ids
            neighbours = jnp.where(same[..., None], padded[:, tap : tap + length], 0)
            return neighbours.reshape(rows * length, groups, size // groups)

        taps = jnp.stack([read(tap) for tap in range(config.conv_size)], axis=1)
        kernel = self.kernel[...].reshape(config.conv_size, size // groups, groups, size // groups)
        y = jnp.einsum("nkgi,kigo->ngo", taps, kernel.astype(x.dtype)).reshape(rows * length, size)
        y = apply_dropout(widen(y) + self.bias[...], config.hidden_dropout, dropout, SHARED_SITES, rows=rows)
        return ACTIVATIONS[config.conv_activation](y).astype(x.dtype)


class DebertaV2(nnx.Module):
    """The encoder, without a head. Parameters are float32."""

    adapter: BackboneAdapter | None = None  # unless `jaxft.adapters` has given it one

    def __init__(self, config: DebertaV2Config, runtime: Runtime = PLAIN_RUNTIME, *, rngs: nnx.Rngs):
        """Makes a new network of the shape `config`."""
        self.embeddings = Embeddings(config, runtime, rngs=rngs)
        if config.has_distance_embeddings:
            self.distances = DistanceEmbeddings(config, runtime, rngs=rngs)
        if config.conv_size:
            self.conv = Convolution(config, rngs=rngs)

        def make_layer(rngs: nnx.Rngs) -> DisentangledLayer:
            return DisentangledLayer(config, runtime, rngs=rngs)

        self.layers = make_stack(make_layer, config.num_layers, rngs)
        self.config, self.runtime = config, runtime

    def __call__(self, inputs: Inputs, dropout: DropoutSeed | None = None) -> jax.Array:
        """Returns hidden states `[R, L, D]` of `runtime.dtype`, as `Encoder` does."""
        rows, length = inputs.input_ids.shape
        x = self.embeddings(inputs, dropout)
        if self.config.products:
            index = index_distances(self.config, length)
            first, last = int(index[-1]), int(index[0])
            distances = self.distances(first, last)
        if self.config.conv_size:
            convolved = self.conv(x, inputs.segment_ids, dropout)

        def run(layer, x, _, site, output_positions):
            relative = None
            if self.config.products:
                relative = layer.project(distances, index - first, dropout, SHARED_SITES + site)
            return layer(x, inputs.segment_ids, dropout, site, output_positions, relative)

        def run_first(layer, x, number, site, output_positions):
            x = run(layer, x, number, site, output_positions)
            return self.conv.norm(x + gather(convolved, output_positions))

        output_positions = locate(inputs.output_positions, rows, length)
        functions = [run_first if self.config.conv_size else run, *[run] * (self.config.num_layers - 1)]
        x = run_layers(
            self.layers,
            x,
            functions,
            self.runtime,
            output_positions,
            rows=rows,
            dropout=dropout,
            prefix=self.adapter,
        )
        return scatter(x, output_positions, rows * length).reshape(rows, length, -1)
