"""Gives the tests of images pictures in files, and two worker processes."""

import io

import numpy as np
import pytest
from PIL import Image

from jaxft.data.sources.images.decoding_pool import DecodingPool


def make_pixels(height=13, width=17, seed=0):
    """Returns smooth random colours, uint8 [height, width, 3], of which JPEG loses little."""
    coarse = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def save(image, format="PNG", **options):
    """Returns the bytes of a file of an image of Pillow or of an array."""
    file = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(file, format, **options)
    return file.getvalue()


@pytest.fixture(scope="session")
def workers():
    return DecodingPool(2)
