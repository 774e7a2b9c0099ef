"""Maps the parameters of ViT, DeiT and their heads to the tensors of Hugging Face checkpoints."""

import functools
import math
from collections.abc import Mapping

import numpy as np

from jaxft.hub.weights import WeightRule, WeightTable, make_linear_rules, make_norm_rules
from jaxft.layers.heads.kinds import HeadKind
from jaxft.models.family import Head, Resized
from jaxft.models.vit.config import ViTConfig

POSITIONS = "backbone/embeddings/position/embedding"
DISTILLATION_TOKEN = "backbone/embeddings/distillation_token/embedding"


# transformers' names of modules, and those that its files have kept from version 4.
_FILE_NAMES = {
    "attention.q_proj": "attention.attention.query",
    "attention.k_proj": "attention.attention.key",
    "attention.v_proj": "attention.attention.value",
    "attention.o_proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}


def make_table(prefix: str) -> WeightTable:
    """Returns the table of models with a `ViT` at `backbone`, without a head.

    Args:
      prefix: the name of the backbone in transformers' classes with a head, "vit" or "deit".
    """
    embeddings, layer = f"{prefix}.embeddings", f"{prefix}.layers.{{layer}}"
    patches, number = f"{embeddings}.patch_embeddings.projection", r"\.(\d+)\."
    return WeightTable(
        rules=[
            WeightRule("backbone/embeddings/class_token/embedding", f"{embeddings}.cls_token", "first"),
            WeightRule(DISTILLATION_TOKEN, f"{embeddings}.distillation_token", "first"),
            WeightRule(POSITIONS, f"{embeddings}.position_embeddings", "first"),
            WeightRule("backbone/embeddings/patches/kernel", f"{patches}.weight", "convolution"),
            WeightRule("backbone/embeddings/patches/bias", f"{patches}.bias"),
            *make_norm_rules("backbone/layers/attention_norm", f"{layer}.layernorm_before"),
            *make_linear_rules("backbone/layers/attention/query", f"{layer}.attention.q_proj"),
            *make_linear_rules("backbone/layers/attention/key", f"{layer}.attention.k_proj"),
            *make_linear_rules("backbone/layers/attention/value", f"{layer}.attention.v_proj"),
            *make_linear_rules("backbone/layers/attention/output", f"{layer}.attention.o_proj"),
            *make_norm_rules("backbone/layers/mlp_norm", f"{layer}.layernorm_after"),
            *make_linear_rules("backbone/layers/mlp/up", f"{layer}.mlp.fc1"),
            *make_linear_rules("backbone/layers/mlp/down", f"{layer}.mlp.fc2"),
            *make_norm_rules("backbone/norm", f"{prefix}.layernorm"),
        ],
        canonical=[
            (r"^(embeddings|encoder|layers|layernorm|pooler)\.", rf"{prefix}.\1."),  # a backbone saved alone
            *((rf"\.layer{number}{theirs}\.", rf".layer.\1.{ours}.") for ours, theirs in _FILE_NAMES.items()),
            (r"\.encoder\.layer\.", ".layers."),
            # Of DeiT's two heads, that of the class token is trained further.
            (r"^cls_classifier\.", "classifier."),
        ],
        ignore=[
            rf"^{prefix}\.pooler\.",  # no head for labels reads it
            rf"^{prefix}\.embeddings\.mask_token$",  # of masked images
            r"^decoder\.",
            r"^(classifier|distillation_classifier)\.",  # heads for other labels, and DeiT's second one
        ],
        file_names=[
            *(
                (rf"\.layers{number}{ours}\.", rf".layers.\1.{theirs}.")
                for ours, theirs in _FILE_NAMES.items()
            ),
            (r"\.layers\.", ".encoder.layer."),
        ],
    )


def make_heads(architecture: str) -> dict[HeadKind, Head]:
    """Returns the heads of a family, of which `architecture` is the class for images with labels."""
    return {HeadKind.IMAGE: Head(architecture, make_linear_rules("head", "classifier"))}


def resize_positions(stored: ViTConfig, config: ViTConfig) -> Mapping[str, Resized]:
    """Returns the positions of a checkpoint of the shape `stored`, if images of `config` have another grid.

    As in the paper's section 3.2, they are interpolated, and as transformers' `interpolate_pos_encoding` does it.
    """
    if stored.grid == config.grid:
        return {}
    shape = (stored.positions, stored.hidden_size)
    convert = functools.partial(
        interpolate_positions, tokens=config.special_tokens, old=stored.grid, new=config.grid
    )
    return {POSITIONS: Resized(shape, convert)}


def interpolate_positions(
    positions: np.ndarray, *, tokens: int, old: tuple[int, int], new: tuple[int, int]
) -> np.ndarray:
    """Interpolates the vectors of positions for another grid of patches; those of special tokens stay.

    Args:
      positions: `[tokens + height * width, D]`.
      tokens: the number of special tokens.
      old: (height, width) of the grid.
      new: those of the grid of the result.

    Returns:
      `[tokens + new height * new width, D]`.
    """
    grid = positions[tokens:].reshape(*old, -1).astype(np.float64)
    down, across = (_cubic_weights(*sizes) for sizes in zip(old, new, strict=True))
    resized = np.einsum("yh,xw,hwd->yxd", down, across, grid).astype(positions.dtype)
    return np.concatenate([positions[:tokens], resized.reshape(-1, positions.shape[1])])


def _cubic_weights(old: int, new: int) -> np.ndarray:
    """Returns the weights `[new, old]` of torch's bicubic interpolation along an axis (Keys, 1981, with a = -0.75)."""
    a, weights = -0.75, np.zeros((new, old))
    for place in range(new):
        center = (place + 0.5) * old / new - 0.5
        for tap in range(math.floor(center) - 1, math.floor(center) + 3):
            x = abs(center - tap)
            near = ((a + 2) * x - (a + 3)) * x * x + 1
            far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
            weights[place, min(max(tap, 0), old - 1)] += near if x <= 1 else far
    return weights
