"""Defines ResNet (He et al., 2016): a convolutional network whose blocks add to what they read.

The network is the paper's, as transformers has it ("v1.5", where the second convolution of a bottleneck halves the
sides of the image). A stem, a convolution and a max pool, reads the pixels. Stages of blocks follow, each of which
but the first halves the sides. The mean over the last feature map is the feature. Batch normalization (Ioffe & Szegedy,
2015) follows each convolution.

In shapes, R is the number of images, H and W their height and width at a place in the network, and C the channels
there. Channels are the last axis.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Generic, TypeVar

import jax
from flax import nnx

from jaxft.layers.activations import ACTIVATIONS
from jaxft.layers.convolution.batch_norm import BatchNorm
from jaxft.layers.convolution.convolution import Convolution
from jaxft.layers.convolution.inputs import CHANNELS, ImageInputs
from jaxft.layers.convolution.pooling import average_pool, max_pool
from jaxft.layers.dropout import DropoutSeed
from jaxft.layers.runtime import PLAIN_RUNTIME, REMAT_POLICIES, Runtime
from jaxft.models.resnet.config import REDUCTION, ResNetConfig

EPSILON, MOMENTUM = 1e-5, 0.1  # of batch normalization, PyTorch's defaults
Module = TypeVar("Module", bound=nnx.Module)


class Series(nnx.Module, Generic[Module]):
    """Modules under their numbers from 0, which are in the paths of their parameters."""

    def __init__(self, modules: Sequence[Module]):
        self.count = len(modules)
        for number, module in enumerate(modules):
            setattr(self, str(number), module)

    def __iter__(self) -> Iterator[Module]:
        """Iterates over the modules in their order."""
        return (getattr(self, str(number)) for number in range(self.count))


class ConvolutionLayer(nnx.Module):
    """A convolution and batch normalization.

    Args:
      in_channels, out_channels: the widths of input and output.
      size, stride: as in `Convolution`.
      sides: H and W of the output, for images of `config.image_size`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        size: int = 3,
        stride: int = 1,
        sides: tuple[int, int],
        runtime: Runtime,
        rngs: nnx.Rngs,
    ):
        self.convolution = Convolution(
            in_channels,
            out_channels,
            size=size,
            stride=stride,
            uses=sides[0] * sides[1],
            runtime=runtime,
            rngs=rngs,
        )
        self.norm = BatchNorm(out_channels, EPSILON, MOMENTUM)

    def __call__(self, x: jax.Array, row_weights: jax.Array, training: bool) -> jax.Array:
        """Applies the layer, `[R, H, W, in] -> [R, H / stride, W / stride, out]`."""
        return self.norm(self.convolution(x), row_weights, training)


class Block(nnx.Module):
    """Layers whose result is added to the input (figures 2 and 5): `activation(layers(x) + shortcut(x))`.

    The input itself is the shortcut, or a convolution of it if the shape changes (section 4.1, option B).

    Args:
      config: the shape of the network.
      in_channels, out_channels: the widths of input and output.
      stride: 2 if the block halves the sides.
      sides: H and W of the input, for images of `config.image_size`.
    """

    def __init__(
        self,
        config: ResNetConfig,
        in_channels: int,
        out_channels: int,
        *,
        stride: int,
        sides: tuple[int, int],
        runtime: Runtime,
        rngs: nnx.Rngs,
    ):
        new_sides = halve(sides) if stride == 2 else sides
        make_layer = functools.partial(ConvolutionLayer, runtime=runtime, rngs=rngs)
        if config.layer_type == "basic":
            layers = [
                make_layer(in_channels, out_channels, stride=stride, sides=new_sides),
                make_layer(out_channels, out_channels, sides=new_sides),
            ]
        else:
            narrow = out_channels // REDUCTION
            strides = (stride, 1) if config.downsample_in_bottleneck else (1, stride)
            first_sides = new_sides if config.downsample_in_bottleneck else sides
            layers = [
                make_layer(in_channels, narrow, size=1, stride=strides[0], sides=first_sides),
                make_layer(narrow, narrow, stride=strides[1], sides=new_sides),
                make_layer(narrow, out_channels, size=1, sides=new_sides),
            ]
        self.layers = Series(layers)
        self.changes_shape = in_channels != out_channels or stride != 1
        if self.changes_shape:
            self.shortcut = make_layer(in_channels, out_channels, size=1, stride=stride, sides=new_sides)
        self.activation = config.activation

    def __call__(self, x: jax.Array, row_weights: jax.Array, training: bool) -> jax.Array:
        """Applies the block, `[R, H, W, in] -> [R, H / stride, W / stride, out]`."""
        shortcut = self.shortcut(x, row_weights, training) if self.changes_shape else x
        *layers, last = self.layers
        for layer in layers:
            x = jax.nn.relu(layer(x, row_weights, training))
        return ACTIVATIONS[self.activation](last(x, row_weights, training) + shortcut)


class ResNet(nnx.Module):
    """The network without a head. Parameters and running statistics are float32."""

    def __init__(self, config: ResNetConfig, runtime: Runtime = PLAIN_RUNTIME, *, rngs: nnx.Rngs):
        """Makes a new network of the shape `config`, with kernels initialized as in He et al. (2015)."""
        sides = halve(config.image_size)
        self.stem = ConvolutionLayer(
            CHANNELS, config.embedding_size, size=7, stride=2, sides=sides, runtime=runtime, rngs=rngs
        )
        sides, channels, stages = halve(sides), config.embedding_size, []
        for stage, (size, depth) in enumerate(zip(config.hidden_sizes, config.depths, strict=True)):
            blocks = []
            for number in range(depth):
                halves = number == 0 and config.halves_sides(stage)
                stride = 2 if halves else 1
                blocks.append(
                    Block(config, channels, size, stride=stride, sides=sides, runtime=runtime, rngs=rngs)
                )
                sides, channels = halve(sides) if halves else sides, size
            stages.append(Series(blocks))
        self.stages = Series(stages)
        self.config, self.runtime = config, runtime

    def __call__(self, inputs: ImageInputs, dropout: DropoutSeed | None = None) -> jax.Array:
        """Returns the mean over each last feature map, `[R, D]` of `runtime.dtype`.

        Args:
          inputs: the batch's arrays; pixels of any size.
          dropout: None for running statistics in place of those of the batch. There is no dropout.
        """
        training = dropout is not None
        run_block = Block.__call__
        if self.runtime.remat != "none":
            run_block = nnx.remat(
                Block.__call__, policy=REMAT_POLICIES[self.runtime.remat], static_argnums=(3,)
            )
        x = inputs.pixels.astype(self.runtime.dtype)
        x = ACTIVATIONS[self.config.activation](self.stem(x, inputs.row_weights, training))
        x = max_pool(x, 3, 2)
        for stage in self.stages:
            for block in stage:
                x = run_block(block, x, inputs.row_weights, training)
        return average_pool(x)


def halve(sides: tuple[int, int]) -> tuple[int, int]:
    """Returns the height and the width of an image after a layer of stride 2."""
    return -(-sides[0] // 2), -(-sides[1] // 2)
