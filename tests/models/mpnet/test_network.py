"""Tests what MPNet alone has: buckets of distances, and a bias for each of them."""

import dataclasses

import numpy as np
import torch
from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

from jaxft.layers.heads.kinds import HeadKind
from jaxft.models.mpnet.network import bucket_distances
from tests.models import torch_parity


def test_each_distance_has_torchs_bucket():
    """Torch takes logarithms in float32, at whose borders, 16, 32, 64 and 128, one rounding would decide."""
    distances = np.arange(-2000, 2001)
    theirs = MPNetEncoder.relative_position_bucket(torch.tensor(distances)).numpy()
    np.testing.assert_array_equal(bucket_distances(distances), theirs)
    assert set(theirs) == set(range(32)) - {16}


def test_long_packed_texts_are_torchs():
    """Covers all buckets, and texts that end on both sides of their borders."""
    rows = ((140, 9, 8), (17, 16, 33, 65, 24))
    config = dataclasses.replace(torch_parity.example_shape("mpnet", seed=0), max_positions=140)
    torch_parity.assert_is_torchs(config, HeadKind.TOKEN, seed=0, dtype="float64", rows=rows)
