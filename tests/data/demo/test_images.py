"""The demo corpora of images are the same everywhere, cover their labels, and share no image between splits."""

import hashlib

import numpy as np
import pytest

from jaxft.data.demo.images import COLOURS, SHAPES, SIDE, SIZES, generate_records
from jaxft.errors import UserError


@pytest.mark.parametrize(
    ("name", "shape", "labels", "sizes"),
    [
        ("digits", (8, 8), {str(digit) for digit in range(10)}, {"train": 1199, "dev": 299, "test": 299}),
        ("shapes", (SIDE, SIDE, 3), {f"{colour} {shape}" for colour in COLOURS for shape in SHAPES}, SIZES),
    ],
)
def test_splits_cover_all_labels_and_share_no_image(name, shape, labels, sizes):
    digests = []
    for split, size in sizes.items():
        records = list(generate_records(f"demo:{name}/{split}"))
        assert len(records) == size and {record["label"] for _, _, record in records} == labels
        for _, _, record in records:
            assert record["image"].shape == shape and record["image"].dtype == np.uint8
        assert records[0][:2] == (f"demo:{name}/{split}, image 1", f"demo:{name}/{split}:1")
        digests += [hashlib.sha256(record["image"].tobytes()).hexdigest() for _, _, record in records]
    assert len(set(digests)) == len(digests)
    assert (
        digests[0]
        == hashlib.sha256(next(generate_records(f"demo:{name}/train"))[2]["image"].tobytes()).hexdigest()
    )


@pytest.mark.parametrize("source", ["demo:digits", "demo:digits/all", "demo:faces/train"])
def test_other_corpora_are_refused(source):
    with pytest.raises(
        UserError, match="no such corpus of images; expected demo:digits/train, .*demo:shapes/test"
    ):
        next(generate_records(source))
