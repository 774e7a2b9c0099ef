"""Broken images are named and counted before a run, left out on request, and not looked for twice."""

import numpy as np
import pytest
from PIL import Image

from jaxft.data.sources.images.checking import check_images
from jaxft.data.sources.images.decoding import BrokenImage
from jaxft.data.sources.images.decoding_pool import DecodingPool
from jaxft.data.sources.images.reading import ImageExample
from jaxft.errors import UserError
from tests.data.sources.images.conftest import make_pixels, save


@pytest.fixture
def examples(tmp_path):
    """Writes six images, of which the files 1, 2, 3 and 5 are broken."""
    good = save(make_pixels())
    contents = [good, good[:50], b"", b"text", save(make_pixels(seed=1)), None]
    for number, content in enumerate(contents):
        if content is not None:
            (tmp_path / f"{number}.png").write_bytes(content)
    return [
        ImageExample(str(tmp_path / f"{number}.png"), "cat", f"{tmp_path}/{number}.png")
        for number in range(6)
    ]


@pytest.mark.parametrize("count", [0, 2])
def test_broken_images_are_named_and_counted(examples, count, workers, tmp_path):
    pool = workers if count else DecodingPool(0)
    with pytest.raises(UserError) as error:
        check_images(examples, pool, name="train: photos")
    reason = str(error.value).partition("damaged (")[2].partition(")")[0]  # Pillow's
    assert str(error.value) == (
        f"train: photos: 4 of 6 images are broken: {tmp_path}/1.png: the image is truncated or damaged ({reason}); put "
        f"back a copy of it; {tmp_path}/2.png: the file is empty; expected a JPEG, PNG, WebP, GIF, BMP, TIFF or PPM; "
        f"{tmp_path}/3.png: no image of a format that can be read; expected a JPEG, PNG, WebP, GIF, BMP, TIFF or PPM; "
        "and 1 more. To leave them out, set config.data.broken=skip"
    )


def test_broken_images_are_left_out_on_request(examples):
    lines = []
    kept = check_images(examples, DecodingPool(0), name="train", on_broken="skip", log=lines.append)
    assert [example.origin for example in kept] == [examples[0].origin, examples[4].origin]
    assert len({example.digest for example in kept}) == 2 and all(
        len(example.digest) == 64 for example in kept
    )
    [line] = lines
    assert line.startswith("warning: train: left out, because 4 of 6 images are broken: ") and "1.png" in line
    check_images(examples[:2], DecodingPool(0), name="train", on_broken="skip", log=lines.append)
    assert lines[1].startswith("warning: train: left out, because 1 of 2 images is broken: ")
    with pytest.raises(UserError, match="1 of 1 image is broken: .*1.png.* None is left"):
        check_images(examples[1:2], DecodingPool(0), name="train", on_broken="skip")


def test_dark_images_get_a_warning(tmp_path):
    """A detector's 12 bits in images of 16 bits are nearly black, because the upper 8 bits are read."""
    values = np.arange(13 * 17, dtype=np.uint16).reshape(13, 17)
    contents = {"16": values << 8, "12": values << 4, "8": values.astype(np.uint8)}
    examples = []
    for bits, pixels in contents.items():
        Image.fromarray(pixels).save(path := tmp_path / f"{bits}.png")
        examples.append(ImageExample(str(path), "cell", str(path)))
    lines = []
    for _ in range(2):  # the second time from the cache
        options = {"name": "train", "cache_folder": tmp_path / "cache", "log": lines.append}
        assert len(check_images(examples, DecodingPool(0), **options)) == 3
    warning = (
        f"warning: train: nearly black, with no value above 15 of 255: 1 of 3, such as {tmp_path}/12.png. Images of 16 "
        "bits are read by their upper 8; scale those whose values have 12 or less"
    )
    assert lines == [warning, warning]


def test_digests_are_those_of_the_content(examples):
    content = save(make_pixels())
    pixels = make_pixels()
    images = [examples[0].image, content, memoryview(content), pixels, pixels.copy(), make_pixels(seed=2)]
    checked = check_images(
        [ImageExample(image, "cat", "x") for image in images], DecodingPool(0), name="train"
    )
    file, *others = [example.digest for example in checked]
    assert others[0] == others[1] == file and others[2] == others[3] != others[4]
    assert len({file, others[2], others[4]}) == 3


class CountingPool(DecodingPool):
    count = 0

    def prepare(self, operation, requests, finish=None):
        self.count += len(requests)
        return super().prepare(operation, requests)


def test_files_that_did_not_change_are_decoded_once(examples, tmp_path):
    good, pool = [examples[0], examples[4]], CountingPool(0)
    options = {"name": "train", "cache_folder": tmp_path / "cache"}
    first = check_images(good, pool, **options)
    second = check_images(good, pool, **options)
    assert pool.count == 2 and [e.digest for e in first] == [e.digest for e in second]
    (tmp_path / "4.png").write_bytes(save(make_pixels(14, 17)))
    third = check_images(good, pool, **options)
    assert pool.count == 4 and third[0].digest == first[0].digest and third[1].digest != first[1].digest
    check_images(good, pool, max_pixels=1000, **options)
    assert pool.count == 6
    for damaged in (tmp_path / "cache").iterdir():
        damaged.write_text("[{")
    assert check_images(good, pool, **options)[1].digest == third[1].digest and pool.count == 8
    in_memory = [ImageExample(np.zeros((2, 2), np.uint8), "cat", "x")]
    check_images(in_memory, pool, **options)
    check_images(in_memory, pool, **options)
    assert pool.count == 10


class FailingPool(CountingPool):
    """Cannot decode the first image, as if memory were short."""

    def prepare(self, operation, requests, finish=None):
        results = super().prepare(operation, requests)
        return [BrokenImage(f"{requests[0].place}: no memory"), *results[1:]]


def test_images_that_were_broken_are_looked_at_again(examples, tmp_path):
    good, lines = [examples[0], examples[4]], []
    options = {"name": "train", "cache_folder": tmp_path / "cache", "on_broken": "skip", "log": lines.append}
    assert len(check_images(good, FailingPool(0), **options)) == 1 and "0.png: no memory" in lines[0]
    pool = CountingPool(0)
    for _ in range(2):
        assert len(check_images(good, pool, **options)) == 2
    assert pool.count == 1 and len(lines) == 1
