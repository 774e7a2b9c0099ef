"""Maps the parameters and running statistics of ResNet to the tensors of Hugging Face checkpoints."""

from collections.abc import Iterator

import numpy as np

from jaxft.hub.weights import WeightRule, WeightTable, make_linear_rules, make_norm_rules
from jaxft.layers.heads.kinds import HeadKind
from jaxft.models.family import Head
from jaxft.models.resnet.config import ResNetConfig


def make_table(config: ResNetConfig) -> WeightTable:
    """Returns the table of models with a `ResNet` of a shape at `backbone`, without a head.

    PyTorch also counts the batches of each normalization. Nothing reads this, so it is not kept, and is written as 0.
    """
    layers = dict(_name_layers(config))
    return WeightTable(
        rules=[rule for ours, theirs in layers.items() for rule in _make_layer_rules(ours, theirs)],
        canonical=[(r"^(embedder|encoder)\.", r"resnet.\1.")],  # a backbone that was saved alone
        ignore=[r"^classifier\.1\."],  # a head for other labels
        constants={
            f"{theirs}.normalization.num_batches_tracked": np.zeros((), np.int64)
            for theirs in layers.values()
        },
    )


def _name_layers(config: ResNetConfig) -> Iterator[tuple[str, str]]:
    """Yields our path of each convolution with its normalization, and transformers' name of it."""
    yield "backbone/stem", "resnet.embedder.embedder"
    in_channels = config.embedding_size
    for stage, (channels, depth) in enumerate(zip(config.hidden_sizes, config.depths, strict=True)):
        for block in range(depth):
            ours, theirs = f"backbone/stages/{stage}/{block}", f"resnet.encoder.stages.{stage}.layers.{block}"
            if block == 0 and (config.halves_sides(stage) or in_channels != channels):
                yield f"{ours}/shortcut", f"{theirs}.shortcut"
            for layer in range(2 if config.layer_type == "basic" else 3):
                yield f"{ours}/layers/{layer}", f"{theirs}.layer.{layer}"
        in_channels = channels


def _make_layer_rules(ours: str, theirs: str) -> list[WeightRule]:
    """Returns the rules of a convolution with its normalization."""
    norm, their_norm = f"{ours}/norm", f"{theirs}.normalization"
    return [
        WeightRule(f"{ours}/convolution/kernel", f"{theirs}.convolution.weight", "convolution"),
        *make_norm_rules(norm, their_norm),
        WeightRule(f"{norm}/running_mean", f"{their_norm}.running_mean"),
        WeightRule(f"{norm}/running_variance", f"{their_norm}.running_var"),
    ]


HEADS = {HeadKind.IMAGE: Head("ResNetForImageClassification", make_linear_rules("head", "classifier.1"))}
