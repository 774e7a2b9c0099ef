"""Makes the vectors of an image's patches."""

import jax
import jax.numpy as jnp
from flax import nnx

from jaxft.layers.convolution.convolution import SPLIT_CHANNELS
from jaxft.layers.convolution.inputs import CHANNELS
from jaxft.layers.linear import add_bias
from jaxft.layers.parameters import Kind, Role, make_parameter
from jaxft.layers.runtime import Runtime
from jaxft.parallel.sharded_matmul import sharded_matmul


class PatchEmbedding(nnx.Module):
    """A linear layer over the pixels of each patch: a convolution whose kernel is as large as its stride.

    The kernel is float32 `[height, width, 3, D]`.

    Args:
      patch_size: the height and width of a patch. What is left at the right and at the bottom is not read.
      size: D.
      uses: the number of patches in an image.
      initializer_range: the standard deviation of the new kernel.
      runtime: how the network computes.
    """

    def __init__(
        self,
        patch_size: tuple[int, int],
        size: int,
        *,
        uses: int,
        initializer_range: float,
        runtime: Runtime,
        rngs: nnx.Rngs,
    ):
        shape = (*patch_size, CHANNELS, size)
        kernel = nnx.initializers.normal(initializer_range)(rngs.params(), shape, jnp.float32)
        self.kernel = make_parameter(kernel, Role(Kind.KERNEL, SPLIT_CHANNELS, uses=uses))
        self.bias = make_parameter(jnp.zeros((size,), jnp.float32), Role(Kind.BIAS))
        self.runtime = runtime

    def __call__(self, pixels: jax.Array) -> jax.Array:
        """Returns the vectors of patches, row by row, in `runtime.dtype`: `[R, H, W, 3] -> [R, patches, D]`."""
        high, wide, channels, size = self.kernel.shape
        rows, height, width, _ = pixels.shape
        height, width = height // high, width // wide
        x = pixels[:, : height * high, : width * wide].astype(self.runtime.dtype)
        x = x.reshape(rows, height, high, width, wide, channels).swapaxes(2, 3)
        x = x.reshape(rows * height * width, high * wide * channels)
        kernel = self.kernel[...].astype(x.dtype).reshape(-1, size)
        [product] = sharded_matmul(x, [kernel], self.runtime.layout, 1)
        return add_bias(product, self.bias[...]).reshape(rows, height * width, size)
