"""Augmentation is a function of (seed, epoch, example), changes what it says, and keeps sizes."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from jaxft.data.sources.images import colour_operations
from jaxft.data.sources.images.augmentation import (
    Augmentation,
    Box,
    DrawKey,
    choose_erased,
    crop_and_resize,
    is_flipped,
)
from jaxft.data.sources.images.colour_operations import apply_rand_augment, jitter_colours
from jaxft.data.sources.images.decoding import BrokenImage
from jaxft.data.sources.images.preparation import Preparation
from jaxft.data.sources.images.processors import ImageProcessor
from tests.data.sources.images.conftest import make_pixels

PROCESSOR = ImageProcessor.from_hf({"image_processor_type": "ViTImageProcessor", "size": [12, 10]})
KEY = DrawKey(1, 2, 3)
KEYS = [DrawKey(0, 1, number) for number in range(400)]


def test_numbers_are_those_of_before():
    """Other ones would end the resume of every run; they are Philox's, whatever numpy's distributions are."""
    assert KEY.draw("crop", 2) == [0.8915726459190384, 0.3278072903284103]
    assert DrawKey(2**64 - 1, 0, 0).draw("crop", 1) != KEY.draw("crop", 1)
    assert KEY.draw("crop", 5)[:2] == KEY.draw("crop", 2)
    numbers = [number for key in KEYS for number in key.draw("flip", 5)]
    assert len(set(numbers)) == 2000 and 0 <= min(numbers) and max(numbers) < 1
    assert np.mean(numbers) == pytest.approx(0.5, abs=0.02) and np.std(numbers) == pytest.approx(
        12**-0.5, abs=0.01
    )


@pytest.mark.parametrize("field", ["seed", "epoch", "example"])
def test_other_keys_draw_other_numbers(field):
    other = KEY._replace(**{field: getattr(KEY, field) + 1})
    assert not set(other.draw("crop", 8)) & set(KEY.draw("crop", 8))
    assert not set(KEY.draw("flip", 8)) & set(KEY.draw("crop", 8))


def crop_boxes(monkeypatch, shape, **values):
    """Returns the box of the random crop of each key."""
    boxes = []
    monkeypatch.setattr(
        "jaxft.data.sources.images.augmentation.resize_image", lambda *args: boxes.append(args[3]) or args[0]
    )
    for key in KEYS:
        crop_and_resize(np.zeros((*shape, 3), np.uint8), (8, 8), 2, Augmentation(**values), key)
    return boxes


def test_random_crops_have_the_share_and_ratio_that_are_asked_for(monkeypatch):
    boxes = crop_boxes(monkeypatch, (300, 400), crop_scale=0.25, crop_ratio=2.0)
    shares = np.array([(box.right - box.left) * (box.bottom - box.top) / 120_000 for box in boxes])
    ratios = np.array([(box.right - box.left) / (box.bottom - box.top) for box in boxes])
    assert 0.245 < shares.min() < 0.3 and 0.8 < shares.max() <= 1 and 0.5 < shares.mean() < 0.65
    assert 0.49 < ratios.min() < 0.6 and 1.7 < ratios.max() < 2.02
    assert all(0 <= box.left < box.right <= 400 and 0 <= box.top < box.bottom <= 300 for box in boxes)
    assert (
        min(box.left for box in boxes) == 0 and max(box.right for box in boxes) == 400
    )  # every place is possible


def test_a_strip_that_no_crop_fits_is_cropped_in_the_middle(monkeypatch):
    boxes = crop_boxes(monkeypatch, (10, 1000), crop_scale=0.9)
    assert set(boxes) == {Box(493, 0, 506, 10)}
    assert set(crop_boxes(monkeypatch, (1000, 10), crop_scale=0.9)) == {Box(0, 493, 10, 506)}


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 50))
def test_any_size_becomes_the_model_s(height, width, number):
    augmentation = Augmentation(0.08, 4 / 3, 0.5, 0.4, 0.4, 0.4, 0.1, 2, 30)
    preparation = Preparation(PROCESSOR, augmentation)
    pixels, key = make_pixels(height, width), DrawKey(0, 0, number)
    prepared = preparation.prepare(pixels, "photo", key=key)
    assert prepared.shape == (12, 10, 3) and prepared.dtype == np.uint8
    np.testing.assert_array_equal(prepared, preparation.prepare(pixels, "photo", key=key))


def test_without_changes_images_are_those_of_evaluation():
    pixels = make_pixels(30, 40)
    unchanged = Preparation(PROCESSOR, Augmentation()).prepare(pixels, "photo", key=KEY)
    np.testing.assert_array_equal(unchanged, Preparation(PROCESSOR).prepare(pixels, "photo"))


def test_flips():
    flips = Augmentation(flip=0.3)
    assert np.mean([is_flipped(flips, key) for key in KEYS]) == pytest.approx(0.3, abs=0.07)
    always = Preparation(PROCESSOR, Augmentation(flip=1.0)).prepare(make_pixels(), "photo", key=KEY)
    np.testing.assert_array_equal(always[:, ::-1], Preparation(PROCESSOR).prepare(make_pixels(), "photo"))
    assert not any(is_flipped(Augmentation(), key) for key in KEYS)


def test_erased_rectangles():
    boxes = [choose_erased(Augmentation(erasing=0.5), (100, 80), key) for key in KEYS]
    assert np.mean([box is not None for box in boxes]) == pytest.approx(0.5, abs=0.07)
    shares = [(box.right - box.left) * (box.bottom - box.top) / 8000 for box in boxes if box is not None]
    assert 0.01 < min(shares) < 0.05 and 0.28 < max(shares) < 0.35
    assert {choose_erased(Augmentation(), (100, 80), key) for key in KEYS} == {None}


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("brightness", lambda image, factor: ImageEnhance.Brightness(image).enhance(factor)),
        ("contrast", lambda image, factor: ImageEnhance.Contrast(image).enhance(factor)),
        ("saturation", lambda image, factor: ImageEnhance.Color(image).enhance(factor)),
    ],
)
def test_jitter_multiplies_by_a_factor(name, change):
    image = Image.fromarray(make_pixels())
    for strength, factors in ((0.4, (0.6, 1.4)), (2.0, (0.0, 3.0))):
        index = ("brightness", "contrast", "saturation").index(name)
        number = KEY.draw("jitter", 8)[index]
        factor = factors[0] + number * (factors[1] - factors[0])
        jittered = jitter_colours(image, Augmentation(**{name: strength}), KEY)
        difference = np.asarray(jittered).astype(int) - np.asarray(change(image, factor))
        assert abs(difference).max() <= 1
    assert jitter_colours(image, Augmentation(), KEY) is image


def test_jitter_turns_the_hue():
    red = Image.new("RGB", (2, 2), (255, 0, 0))
    hues = {jitter_colours(red, Augmentation(hue=0.5), key).getpixel((0, 0)) for key in KEYS[:60]}
    assert len(hues) > 30 and all(
        max(hue) == 255 and min(hue) == 0 for hue in hues
    )  # as bright and saturated
    orders = {tuple(np.argsort(key.draw("jitter", 8)[4:])) for key in KEYS}
    assert len(orders) == 24


def test_rand_augment_without_magnitude_moves_nothing():
    image = Image.fromarray(make_pixels(30, 40))
    for operation in colour_operations._OPERATIONS[:10]:
        np.testing.assert_array_equal(operation(image, 0.0), image)
    for operation in colour_operations._OPERATIONS:
        changed = operation(image, 1.0)
        assert changed.size == image.size and changed.mode == "RGB"


def test_rand_augment_moves_by_a_share_of_the_sides():
    image = Image.fromarray(make_pixels(100, 200))
    moved = np.asarray(colour_operations._OPERATIONS[3](image, 1.0))
    np.testing.assert_array_equal(moved[:, 90:], np.asarray(image)[:, :110])
    assert not moved[:, :90].any()
    posterized = np.asarray(colour_operations._posterize(image, -1.0))
    assert set(np.unique(posterized & 0x0F)) == {0}
    solarized = np.asarray(colour_operations._solarize(image, 1.0))
    np.testing.assert_array_equal(solarized, 255 - np.asarray(image))


def test_rand_augment_draws_each_operation(monkeypatch):
    drawn = []
    operations = [lambda image, strength, n=n: drawn.append((n, strength)) or image for n in range(14)]
    monkeypatch.setattr(colour_operations, "_OPERATIONS", operations)
    for key in KEYS:
        apply_rand_augment(
            Image.new("RGB", (2, 2)), Augmentation(rand_augment=2, rand_augment_magnitude=15), key
        )
    assert len(drawn) == 800
    assert {number for number, _ in drawn} == set(range(14)) and {strength for _, strength in drawn} == {
        -0.5,
        0.5,
    }


def test_views_of_evaluation():
    pixels = make_pixels(30, 40)
    center = Preparation(PROCESSOR).prepare(pixels, "photo")
    counts = {}
    for views in ("center", "flip", "crops"):
        preparation = Preparation(PROCESSOR, views=views)
        counts[views] = preparation.view_count
        images = [preparation.prepare(pixels, "photo", view=view) for view in range(preparation.view_count)]
        assert {image.shape for image in images} == {(12, 10, 3)}
        np.testing.assert_array_equal(images[0], center)
        for image, mirrored in zip(images[::2], images[1::2], strict=False):
            np.testing.assert_array_equal(image[:, ::-1], mirrored)
        assert len({image.tobytes() for image in images}) == len(images)
    assert counts == {"center": 1, "flip": 2, "crops": 10}
    assert dataclasses.replace(preparation, augmentation=Augmentation()).view_count == 1


def test_corners_are_those_of_the_image():
    """A processor with a crop cuts them out of what it resizes; another resizes to more, 8 / 7 of its size."""
    gradient = np.zeros((64, 64, 3), np.uint8)
    gradient[..., 0], gradient[..., 1] = np.arange(0, 256, 4)[:, None], np.arange(0, 256, 4)
    cropping = ImageProcessor.from_hf(
        {"image_processor_type": "DeiTImageProcessor", "size": 16, "crop_size": 14}
    )
    for processor, resized in ((cropping, 16), (PROCESSOR, 14)):
        preparation = Preparation(processor, views="crops")
        top_left, top_right, bottom_left, bottom_right = (
            preparation.prepare(gradient, "photo", view=view) for view in (2, 4, 6, 8)
        )
        assert top_left[0, 0].max() < 256 / resized and bottom_right[-1, -1, :2].min() > 255 - 256 / resized
        assert top_right[0, 0, 1] > top_left[0, 0, 1] and top_right[0, 0, 0] == top_left[0, 0, 0]
        assert bottom_left[0, 0, 0] > top_left[0, 0, 0] and bottom_left[0, 0, 1] == top_left[0, 0, 1]


@pytest.mark.parametrize("view", [0, 2])
def test_a_strip_that_would_become_huge_is_refused(view):
    processor = ImageProcessor.from_hf({}, "CLIPImageProcessor")
    preparation = Preparation(processor, views="crops", max_pixels=1_000_000)
    with pytest.raises(
        BrokenImage, match="photo: an image of 1,000 x 1 pixels, which the .* resizes to 2.*,... x 2"
    ):
        preparation.prepare(np.zeros((1, 1000, 3), np.uint8), "photo", view=view)
    augmented = dataclasses.replace(preparation, augmentation=Augmentation(crop_scale=0.1))
    assert augmented.prepare(np.zeros((1, 1000, 3), np.uint8), "photo", key=KEY).shape == (224, 224, 3)
