"""Processors make of images what transformers' processors with Pillow make, bit for bit."""

import json

import numpy as np
import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers.image_processing_backends import PilBackend

from jaxft.data.sources.images.processors import TYPES, ImageProcessor, load_image_processor
from jaxft.errors import UserError

SQUARE = {"height": 10, "width": 10}
# Small versions of what checkpoints have, with sizes in each form that files have had.
CONFIGS = [
    {"image_processor_type": "ViTImageProcessor", "size": 16},
    {"image_processor_type": "ViTImageProcessorFast", "size": {"height": 17, "width": 12}, "image_mean": 0.4},
    {"feature_extractor_type": "ViTFeatureExtractor", "size": [9, 14], "do_rescale": False},
    {"image_processor_type": "DeiTImageProcessor", "size": 13, "crop_size": 11},
    {"image_processor_type": "DeiTImageProcessor", "size": {"height": 9, "width": 15}, "crop_size": SQUARE},
    {"feature_extractor_type": "ConvNextFeatureExtractor", "size": 14, "crop_pct": 0.875},
    {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 384}, "do_normalize": False},
    {"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 12}, "crop_size": SQUARE},
    {"image_processor_type": "BitImageProcessor", "do_resize": False, "crop_size": SQUARE},
    {"image_processor_type": "CLIPImageProcessor", "size": 7, "crop_size": {"height": 11, "width": 8}},
]


def make_both(config: dict) -> tuple[ImageProcessor, PilBackend]:
    ours = ImageProcessor.from_hf(config)
    kind = getattr(transformers, f"{ours.processor_type}Pil")
    return ours, kind.from_dict(config)


def process(processor: ImageProcessor, image: np.ndarray) -> np.ndarray:
    return processor.normalize(processor.crop(processor.resize(image)))


def process_as_transformers(processor: PilBackend, image: np.ndarray) -> np.ndarray:
    [pixels] = processor(Image.fromarray(image), return_tensors="np").pixel_values
    return pixels.transpose(1, 2, 0)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: json.dumps(config)[:60])
@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 5), st.integers(0, 9))
def test_pixels_equal_those_of_transformers(config, height, width, resample, seed):
    config = config | {"resample": resample}
    ours, theirs = make_both(config)
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    expected = process_as_transformers(theirs, image)
    pixels = process(ours, image)
    assert pixels.dtype == np.float32
    assert pixels.shape == (*ours.output_size, 3)
    np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize("processor_type", TYPES)
def test_defaults_are_those_of_transformers(processor_type):
    """For a file that has nothing but the type, as for one that has not even that."""
    ours, theirs = make_both({"image_processor_type": processor_type})
    assert ours == ImageProcessor.from_hf({}, processor_type)
    image = np.random.default_rng(0).integers(0, 256, (300, 261, 3), np.uint8)
    np.testing.assert_array_equal(process(ours, image), process_as_transformers(theirs, image))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: json.dumps(config)[:60])
def test_a_saved_processor_is_the_same_here_and_in_transformers(config, tmp_path):
    ours, theirs = make_both(config)
    ours.save_pretrained(tmp_path)
    loaded = load_image_processor(tmp_path)
    assert loaded == ours and loaded.fingerprint == ours.fingerprint
    image = np.random.default_rng(1).integers(0, 256, (21, 30, 3), np.uint8)
    reloaded = type(theirs).from_pretrained(tmp_path)
    np.testing.assert_array_equal(process_as_transformers(reloaded, image), process(ours, image))
    grey = Image.fromarray(image[..., 0])  # transformers makes it RGB, because the file says so
    assert reloaded(grey, return_tensors="np").pixel_values.shape == (1, 3, *ours.output_size)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: json.dumps(config)[:60])
def test_another_output_size(config):
    processor = ImageProcessor.from_hf(config)
    other = processor.with_output_size(22, 22)
    assert other.output_size == (22, 22)
    assert (
        processor.with_output_size(*processor.output_size) == processor
        if processor.crop_share is None
        else True
    )
    assert process(other, np.zeros((30, 40, 3), np.uint8)).shape == (22, 22, 3)


def test_a_crop_keeps_its_share_of_another_size():
    processor = ImageProcessor.from_hf({}, "DeiTImageProcessor").with_output_size(112, 112)
    assert (processor.size, processor.crop_size) == ((128, 128), (112, 112))
    with pytest.raises(UserError, match="squares only"):
        ImageProcessor.from_hf({}, "ConvNextImageProcessor").with_output_size(112, 64)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"image_processor_type": "BeitImageProcessor"},
            "'BeitImageProcessor'; those that can be read are ViTImage",
        ),
        ({}, "the image processor None; those that can be read"),
        ({"image_processor_type": ["x"]}, "those that can be read"),
        (
            {"image_processor_type": "ViTImageProcessor", "size": {"shortest_edge": 5}},
            "not all have the same size",
        ),
        ({"image_processor_type": "ViTImageProcessor", "do_resize": False}, "not all have the same size"),
        (
            {"image_processor_type": "ViTImageProcessor", "size": {"longest_edge": 5}},
            "expected height and width",
        ),
        ({"image_processor_type": "ViTImageProcessor", "size": 0}, "size: 0; expected|'height': 0"),
        ({"image_processor_type": "ViTImageProcessor", "size": "224"}, "size: '224'; expected"),
        ({"image_processor_type": "ViTImageProcessor", "size": 10**30}, "expected height and width"),
        (
            {"image_processor_type": "ViTImageProcessor", "rescale_factor": 10**400},
            "rescale_factor: 1.*a number",
        ),
        ({"image_processor_type": "ViTImageProcessor", "image_std": 1e-60}, "numbers other than 0"),
        (
            {"image_processor_type": "ViTImageProcessor", "resample": 9},
            r"resample: 9; expected 0 \(nearest\)",
        ),
        (
            {"image_processor_type": "ViTImageProcessor", "image_mean": [0.5]},
            r"image_mean: \[0.5\]; expected a number",
        ),
        ({"image_processor_type": "ViTImageProcessor", "image_std": [1, 0, 1]}, "numbers other than 0"),
        ({"image_processor_type": "ViTImageProcessor", "rescale_factor": "1/255"}, "rescale_factor: '1/255'"),
        ({"image_processor_type": "ViTImageProcessor", "do_center_crop": True}, "crop_size: None; expected"),
        (
            {"image_processor_type": "CLIPImageProcessor", "do_pad": True},
            "do_pad: True; a CLIPImageProcessor that does",
        ),
        ({"image_processor_type": "ConvNextImageProcessor", "crop_pct": 0}, "crop_pct 0; expected"),
        (
            {"image_processor_type": "ConvNextImageProcessor", "size": {"height": 8, "width": 8}},
            "a shortest_edge",
        ),
    ],
)
def test_what_cannot_be_read_is_refused(config, message):
    with pytest.raises(UserError, match=message):
        ImageProcessor.from_hf(config)


def test_a_damaged_file_is_named(tmp_path):
    for content, message in (
        (None, "is missing"),
        ("{", "cannot be read"),
        ("[]", "an object was expected"),
        ('{"model_type": "vit"}', "the config.json of a model"),
    ):
        if content is not None:
            (tmp_path / "preprocessor_config.json").write_text(content)
        with pytest.raises(UserError, match=f"preprocessor_config.json.*{message}"):
            load_image_processor(tmp_path)
