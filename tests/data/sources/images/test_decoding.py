"""Images of any format become RGB pixels, the same ones for the same bytes; what cannot be decoded is named."""

import io
import os
import struct
import subprocess
import sys
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from jaxft.data.sources.images.decoding import BrokenImage, decode_image
from tests.conftest import REPOSITORY
from tests.data.sources.images.conftest import make_pixels, save

PIXELS = make_pixels()
GREY = PIXELS[..., 0]
LOSSLESS = [("PNG", {}), ("BMP", {}), ("TIFF", {}), ("TIFF", {"big_tiff": True}), ("PPM", {})]
LOSSLESS += [("WEBP", {"lossless": True})]


def decode(content):
    pixels = decode_image(content, "photo")
    assert pixels.dtype == np.uint8 and pixels.flags.c_contiguous
    np.testing.assert_array_equal(pixels, decode_image(content, "photo"))
    return pixels


@pytest.mark.parametrize(("format", "options"), LOSSLESS, ids=lambda value: str(value))
@settings(max_examples=10, deadline=None, derandomize=True)
@given(st.integers(1, 30), st.integers(1, 30))
def test_lossless_formats_keep_every_pixel(format, options, height, width):
    pixels = make_pixels(height, width)
    np.testing.assert_array_equal(decode(save(pixels, format, **options)), pixels)


@pytest.mark.parametrize(
    ("format", "options"), [("JPEG", {"quality": 95}), ("WEBP", {"quality": 95}), ("GIF", {})]
)
def test_lossy_formats_keep_colours(format, options):
    original = make_pixels(60, 80)
    pixels = decode(save(original, format, **options))
    assert np.abs(pixels.astype(int) - original).mean() < (12 if format == "GIF" else 6)


def test_a_file_its_bytes_and_a_map_of_them_are_the_same(tmp_path):
    content = save(PIXELS, "JPEG")
    (tmp_path / "photo.dat").write_bytes(content)  # suffixes mean nothing here
    for image in (str(tmp_path / "photo.dat"), memoryview(content)):
        np.testing.assert_array_equal(decode(image), decode(content))


def test_grey_images_have_three_equal_channels():
    expected = np.repeat(GREY[..., None], 3, axis=2)
    for content in (
        save(GREY),
        save(GREY, "TIFF"),
        GREY,
        GREY[..., None],
        save(Image.fromarray(GREY).convert("I;16")),
    ):
        if isinstance(content, bytes) and Image.open(io.BytesIO(content)).mode == "I;16":
            assert decode(content).max() == 0  # values below 256 are nearly black in 16 bits
        else:
            np.testing.assert_array_equal(decode(content), expected)
    bits = Image.fromarray(GREY).convert("1")
    np.testing.assert_array_equal(decode(save(bits)), np.repeat(np.array(bits)[..., None] * 255, 3, axis=2))


@pytest.mark.parametrize("format", ["PNG", "TIFF", "PPM"])
def test_16_bits_are_scaled_and_not_clipped(format):
    values = np.array([[0, 255, 256, 32768, 65535]], np.uint16)
    np.testing.assert_array_equal(decode(save(values, format))[0, :, 0], [0, 0, 1, 128, 255])


def test_16_bits_of_colour_become_those_of_grey():
    """Pillow cannot write PNGs of 16 bits a colour; this one is made by hand."""
    values = np.array([[0, 255, 256, 32768, 65535]], ">u2")
    rows = b"".join(b"\0" + np.repeat(row[:, None], 3, axis=1).tobytes() for row in values)
    content = make_png((5, 1, 16, 2, 0, 0, 0), rows)
    np.testing.assert_array_equal(decode(content), decode(save(values.astype(np.uint16))))


def test_transparent_pixels_lie_on_white():
    alpha = np.linspace(0, 255, GREY.size).reshape(GREY.shape).astype(np.uint8)
    pixels = np.dstack([PIXELS, alpha])
    share = alpha[..., None] / 255
    expected = PIXELS * share + 255 * (1 - share)
    for content in (pixels, save(pixels), save(pixels, "WEBP", lossless=True, exact=True)):
        assert np.abs(decode(content) - expected).max() <= 1
    grey = decode(save(Image.fromarray(np.dstack([GREY, alpha]), "LA")))
    assert np.abs(grey[..., 0] - (GREY * share[..., 0] + 255 * (1 - share[..., 0]))).max() <= 1


def test_palettes_with_and_without_transparency():
    palette = Image.fromarray(PIXELS).quantize(16)
    np.testing.assert_array_equal(decode(save(palette)), np.array(palette.convert("RGB")))
    indices, content = np.array(palette), save(palette, transparency=3)
    assert (indices == 3).any() and (decode(content)[indices == 3] == 255).all()
    np.testing.assert_array_equal(
        decode(content)[indices != 3], np.array(palette.convert("RGB"))[indices != 3]
    )
    single = save(PIXELS, transparency=tuple(PIXELS[4, 5].tolist()))  # one colour of an RGB image
    assert decode(single)[4, 5].tolist() == [255, 255, 255]


def test_cmyk():
    cmyk = Image.fromarray(PIXELS).convert("CMYK")
    np.testing.assert_array_equal(decode(save(cmyk, "TIFF")), PIXELS)
    assert np.abs(decode(save(cmyk, "JPEG", quality=95)).astype(int) - PIXELS).mean() < 6


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_rotations_are_applied(format):
    turns = {1: PIXELS, 2: PIXELS[:, ::-1], 3: PIXELS[::-1, ::-1], 4: PIXELS[::-1], 5: PIXELS.transpose(1, 0, 2),
             6: np.rot90(PIXELS, -1), 7: PIXELS[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(PIXELS)}  # fmt: skip
    for orientation, expected in turns.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        options = {"quality": 95} if format == "JPEG" else {"lossless": True} if format == "WEBP" else {}
        pixels = decode(save(PIXELS, format, exif=exif, **options))
        assert pixels.shape == expected.shape
        assert np.abs(pixels.astype(int) - expected).mean() < (6 if format == "JPEG" else 1e-9), orientation


def test_damaged_exif_data_turn_nothing():
    content = save(PIXELS, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff" + b"\xff" * 20)
    np.testing.assert_array_equal(decode(content), decode(save(PIXELS, "JPEG")))


def damage_tag(tag, **changes):
    """Returns a TIFF of `PIXELS` in which the `count` or the `value` of an entry is another one."""
    content = bytearray(save(PIXELS, "TIFF", software="a camera of long ago"))
    start = struct.unpack_from("<I", content, 4)[0] + 2
    while struct.unpack_from("<H", content, start)[0] != tag:
        start += 12
    for field, value in changes.items():
        struct.pack_into("<I", content, start + {"count": 4, "value": 8}[field], value)
    return bytes(content)


SOFTWARE, SAMPLES_PER_PIXEL = 305, 277


def test_damaged_metadata_are_no_damage_to_the_image_and_nothing_is_printed_of_them(tmp_path):
    """Pillow warns of them, without the name of the file."""
    undamaged = save(PIXELS, "TIFF")
    damaged = [damage_tag(SOFTWARE, count=9_999_999), damage_tag(SOFTWARE, value=9_999_999)]
    for content in damaged:
        np.testing.assert_array_equal(decode(content), decode(undamaged))
    (tmp_path / "run.py").write_text(
        "import sys\n"
        "from jaxft.data.sources.images.decoding_pool import DecodingPool, ImageRequest\n"
        "from jaxft.data.sources.images.preparation import Hashing\n"
        "requests = [ImageRequest(path, path) for path in sys.argv[1:]]\n"
        "for count in (0, 1):\n"
        "    print(*map(type, DecodingPool(count).prepare(Hashing(), requests)))\n"
    )
    many_samples = damage_tag(SAMPLES_PER_PIXEL, value=60_000)  # which Pillow would also log
    paths = []
    for number, content in enumerate([*damaged, many_samples]):
        paths.append(tmp_path / f"{number}.tiff")
        paths[-1].write_bytes(content)
    process = subprocess.run(
        [sys.executable, "-W", "default", tmp_path / "run.py", *paths],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=True,
    )
    line = "<class 'numpy.ndarray'> <class 'numpy.ndarray'> <class 'jaxft.data.sources.images.decoding.BrokenImage'>"
    assert (process.stdout, process.stderr) == (f"{line}\n{line}\n", "")


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_of_an_animation(format):
    frames = [Image.fromarray(make_pixels(seed=seed)) for seed in range(3)]
    options = {"lossless": True} if format == "WEBP" else {}
    content = save(frames[0], format, save_all=True, append_images=frames[1:], **options)
    np.testing.assert_array_equal(decode(content), decode(save(frames[0], format, **options)))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_truncated_files_are_broken(format):
    content = save(make_pixels(60, 80), format)
    for share in (0.3, 0.6, 0.9):
        with pytest.raises(
            BrokenImage, match="^photo: the image is truncated or damaged .*; put back a copy"
        ):
            decode_image(content[: int(len(content) * share)], "photo")


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"]), st.integers(0, 400), st.integers(0, 255)
)
def test_damage_raises_no_other_error(format, place, value):
    content = bytearray(save(PIXELS, format))
    content[place % len(content)] = value
    try:
        decode_image(bytes(content), "photo", 100_000)
    except BrokenImage as error:
        assert str(error).startswith("photo: ")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty; expected a JPEG"),
        (b"hello, world", "no image of a format that can be read; expected a JPEG"),
        (b"RIFF1234WAVEfmt ", "no image of a format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "no image of a format"),  # Pillow would start Ghostscript
        (
            save(np.zeros((2, 2), np.float32), "TIFF"),
            "^photo: an image of floating-point numbers; expected 8 or 16 bits: scale its values, and save it again$",
        ),
        (
            save(np.full((2, 2), 255, np.int32), "TIFF"),
            "^photo: an image of 32 bits for each pixel; expected 8",
        ),
        ("/proc/self/mem", "^photo: /proc/self/mem: the file cannot be read .Input/output error"),
        (np.zeros((2, 2, 5), np.uint8), r"an array of uint8 \[2, 2, 5\]; expected uint8 with \[H, W\]"),
        (np.zeros((2, 2, 3)), "an array of float64"),
        (np.zeros((0, 2, 3), np.uint8), "an array of uint8"),
        (np.zeros(3, np.uint8), r"an array of uint8 \[3\]"),
        ("missing.png", "^photo: .*missing.png: no such file"),
        ("nul\0l", "is no path of a file"),
        ("/dev/zero", "/dev/zero is no file"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_other_content_is_broken(content, message):
    with pytest.raises(BrokenImage, match=message):
        decode_image(content, "photo")


def test_a_folder_and_a_pipe_are_no_images(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path, tmp_path / "pipe.png"):
        with pytest.raises(BrokenImage, match="is no file; expected the path of an image"):
            decode_image(str(path), "photo")


def make_png(header, rows):
    """Returns a PNG of an IHDR and of rows, which need not fit each other."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header, data = struct.pack(">IIBBBBB", *header), zlib.compress(rows)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize("content", [make_png((30_000, 30_000, 8, 2, 0, 0, 0), b""), b"P6 30000 30000 255\n"])
def test_a_bomb_is_refused_by_its_header(content):
    """A small file that would take gigabytes. Pillow's own warning is not shown."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(
            BrokenImage, match="^photo: an image of 30,000 x 30,000 pixels, which takes 2,700 MB of"
        ):
            decode_image(content, "photo")


def enlarge(format, signature, offset, size):
    """Returns a file of `PIXELS` in which the bytes at `offset` from a signature say another size."""
    content = bytearray(save(PIXELS, format, **({"lossless": True} if format == "WEBP" else {})))
    start = content.index(signature) + offset
    content[start : start + len(size)] = size
    return bytes(content)


FRAME = b"," + bytes(4) + struct.pack("<H", 17)  # of a GIF, which begins at the place 0, 0
SIDES_OF_WEBP = struct.pack("<I", 16_000 << 14 | 16_000)  # 14 bits each


@pytest.mark.parametrize(
    "content",
    [
        enlarge("GIF", FRAME, 5, struct.pack("<HH", 30_000, 30_000)),
        enlarge("WEBP", b"VP8L", 9, SIDES_OF_WEBP),
    ],
    ids=["gif", "webp"],
)
def test_what_pillow_calls_a_bomb_is_too_large_and_not_damaged(content):
    """It says so when the file is opened, before our limit is applied."""
    with pytest.raises(
        BrokenImage, match=r"^photo: the image is too large \(.* pixels\).*\); scale it down$"
    ):
        decode_image(content, "photo")


def test_the_limit_of_pixels_is_that_of_the_setting():
    pixels = make_pixels(100, 100)
    assert decode_image(save(pixels), "photo", 10_000).shape == (100, 100, 3)
    for image in (
        *(save(pixels, format) for format, _ in LOSSLESS),
        save(pixels, "GIF"),
        save(pixels, "JPEG"),
        pixels,
    ):
        with pytest.raises(BrokenImage, match="100 x 100 pixels, which takes 0 MB of memory; at most 9,999"):
            decode_image(image, "photo", 9_999)
