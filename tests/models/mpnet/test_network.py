"""Tests the parts of MPNet that are its own: the buckets of distances."""

import numpy as np
import torch
from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

from jaxft.models.mpnet.network import bucket_distances


def test_each_distance_has_torchs_bucket():
    """Torch takes logarithms in float32, at whose borders, 16, 32, 64 and 128, one rounding would decide."""
    distances = np.arange(-2000, 2001)
    theirs = MPNetEncoder.relative_position_bucket(torch.tensor(distances)).numpy()
    np.testing.assert_array_equal(bucket_distances(distances), theirs)
    assert set(theirs) == set(range(32)) - {16}
