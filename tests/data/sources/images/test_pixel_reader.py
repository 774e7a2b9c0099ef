"""A window's pixels and target depend on (seed, epoch, window) alone, whatever is read with them, where and how."""

import dataclasses
import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxft.data.sources.images.augmentation import Augmentation, DrawKey
from jaxft.data.sources.images.checking import check_images
from jaxft.data.sources.images.decoding_pool import DecodingPool
from jaxft.data.sources.images.mixing import Mixing, draw_mixture, find_partner
from jaxft.data.sources.images.pixel_cache import load_or_decode
from jaxft.data.sources.images.pixel_reader import PixelReader
from jaxft.data.sources.images.preparation import Preparation, Shrinking
from jaxft.data.sources.images.processors import ImageProcessor
from jaxft.data.sources.images.reading import ImageExample
from jaxft.errors import UserError
from tests.data.sources.images.conftest import make_pixels, save

PROCESSOR = ImageProcessor.from_hf({"image_processor_type": "ViTImageProcessor", "size": 9})
EVERYTHING = Augmentation(0.2, 4 / 3, 0.5, 0.4, 0.4, 0.4, 0.1, 2, 9, 0.5)
BOTH = Mixing(0.4, 1.0, 0.8)
COUNT = 7


@pytest.fixture(scope="module")
def examples():
    images = [save(make_pixels(20 + number, 30, number), "JPEG") for number in range(COUNT)]
    unchecked = [ImageExample(image, "cat", f"photo {number}") for number, image in enumerate(images)]
    return check_images(unchecked, DecodingPool(0), name="train")


@pytest.fixture(scope="module")
def reader(examples):
    targets = np.eye(3, dtype=np.float32)[np.arange(COUNT) % 3]
    return PixelReader(examples, targets, Preparation(PROCESSOR, EVERYTHING), DecodingPool(0), BOTH)


def assert_equal(results, expected):
    for array, expected_array in zip(results, expected, strict=True):
        assert np.asarray(array).dtype == np.float32
        np.testing.assert_array_equal(array, expected_array)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    st.lists(st.integers(0, COUNT - 1), min_size=1, max_size=10), st.integers(0, 3), st.integers(0, 2**64 - 1)
)
def test_a_window_does_not_depend_on_its_batch(reader, windows, epoch, seed):
    pixels, targets = reader.read(np.array(windows), seed=seed, epoch=epoch)
    assert pixels.shape == (len(windows), 9, 9, 3) and targets.shape == (len(windows), 3)
    for window, image, target in zip(windows, pixels, targets, strict=True):
        assert_equal(([image], [target]), reader.read(np.array([window]), seed=seed, epoch=epoch))
    np.testing.assert_allclose(targets.sum(axis=1), 1, rtol=1e-6)


def test_workers_change_nothing(reader, workers):
    windows = np.arange(COUNT)
    for changed in (reader, dataclasses.replace(reader, preparation=Preparation(PROCESSOR, views="flip"))):
        shared = dataclasses.replace(changed, pool=workers)
        for epoch in (0, 1):
            assert_equal(
                shared.read(windows, seed=5, epoch=epoch), changed.read(windows, seed=5, epoch=epoch)
            )


def test_seed_and_epoch_change_training_and_not_evaluation(reader):
    windows, plain = np.arange(COUNT), dataclasses.replace(reader, preparation=Preparation(PROCESSOR))
    first, *others = (
        reader.read(windows, seed=seed, epoch=epoch)[0] for seed, epoch in ((0, 0), (0, 1), (1, 0))
    )
    assert all((first != other).any(axis=(1, 2, 3)).all() for other in others)
    pixels, targets = plain.read(windows, seed=1, epoch=1)
    assert_equal(plain.read(windows, seed=0, epoch=0), (pixels, targets))
    expected = [
        PROCESSOR.normalize(plain.preparation.prepare(example.image, "")) for example in reader.examples
    ]
    assert_equal((pixels, targets), (expected, reader.targets))


@pytest.mark.parametrize(
    "mixing", [Mixing(mixup=0.4), Mixing(cutmix=1.0), BOTH], ids=["mixup", "cutmix", "both"]
)
def test_partners_are_mixed_as_they_are_augmented(reader, mixing):
    mixed = dataclasses.replace(reader, mixing=mixing).read(np.arange(COUNT), seed=2, epoch=3)
    alone = dataclasses.replace(reader, mixing=Mixing()).read(np.arange(COUNT), seed=2, epoch=3)
    kinds = set()
    for number in range(COUNT):
        key = DrawKey(2, 3, number)
        partner = find_partner(key, COUNT)
        share, box = draw_mixture(mixing, (9, 9), key)
        weight = np.full((9, 9, 1), share)
        if box is not None:
            weight[:] = 1
            weight[box.top : box.bottom, box.left : box.right] = 0
            assert weight.mean() == pytest.approx(share)
        kinds.add("box" if box else "share" if share < 1 else "none")
        for array, source, share_of_own in ((mixed[0], alone[0], weight), (mixed[1], alone[1], share)):
            expected = share_of_own * source[number] + (1 - share_of_own) * source[partner]
            np.testing.assert_allclose(array[number], expected, atol=1e-6)
    assert kinds >= ({"share"} if mixing.mixup else set()) | ({"box"} if mixing.cutmix else set())


def test_partners_are_any_other_example():
    partners = np.array(
        [[find_partner(DrawKey(0, epoch, number), 5) for number in range(5)] for epoch in range(200)]
    )
    assert not (partners == np.arange(5)).any()
    assert np.bincount(partners.ravel(), minlength=5) == pytest.approx([200] * 5, rel=0.25)
    assert find_partner(DrawKey(0, 0, 0), 1) == 0


def test_shares_are_those_of_the_beta_distribution():
    keys = [DrawKey(0, 0, number) for number in range(2000)]
    shares = [draw_mixture(Mixing(mixup=0.2), (9, 9), key)[0] for key in keys]
    assert np.mean(shares) == pytest.approx(0.5, abs=0.03)
    assert np.var(shares) == pytest.approx(1 / (4 * (2 * 0.2 + 1)), rel=0.05)
    few = [draw_mixture(Mixing(mixup=1.0, probability=0.25), (9, 9), key) for key in keys]
    assert np.mean([share < 1 for share, _ in few]) == pytest.approx(0.25, abs=0.04)
    both = [draw_mixture(BOTH, (90, 90), key)[1] is not None for key in keys]
    assert np.mean(both) == pytest.approx(0.8 * 0.5, abs=0.05)


def test_windows_are_views(examples):
    views = PixelReader(
        examples, np.zeros((COUNT, 1), np.float32), Preparation(PROCESSOR, views="flip"), DecodingPool(0)
    )
    assert len(views) == 2 * COUNT and views.image_size == (9, 9)
    pixels, _ = views.read(np.array([6, 7]), seed=0, epoch=0)
    plain = dataclasses.replace(views, preparation=Preparation(PROCESSOR)).read(
        np.array([3]), seed=0, epoch=0
    )[0]
    np.testing.assert_array_equal(pixels[:1], plain)
    np.testing.assert_array_equal(pixels[1, :, ::-1], plain[0])


def test_a_slice_reads_the_same_windows(reader):
    piece = reader.slice(2, 6).slice(1, 3)
    assert len(piece) == 2 and len(piece.slice(1, 1)) == 0 and piece.fingerprint != reader.fingerprint
    assert_equal(piece.read(np.array([1]), seed=1, epoch=1), reader.read(np.array([4]), seed=1, epoch=1))


def test_fingerprints(reader, examples):
    others = [
        dataclasses.replace(reader, examples=examples[::-1]),
        dataclasses.replace(reader, targets=1 - reader.targets),
        dataclasses.replace(reader, mixing=Mixing()),
        dataclasses.replace(reader, preparation=Preparation(PROCESSOR)),
    ]
    assert len({reader.fingerprint, *(other.fingerprint for other in others)}) == 5
    limited = dataclasses.replace(reader.preparation, max_pixels=10_000)
    assert dataclasses.replace(reader, preparation=limited).fingerprint == reader.fingerprint


def test_an_image_that_broke_since_it_was_checked_is_named(reader, examples):
    broken = dataclasses.replace(examples[2], image=b"x")
    changed = dataclasses.replace(
        reader, examples=[*examples[:2], broken, broken, *examples[4:]], mixing=Mixing()
    )
    with pytest.raises(UserError, match=r"^photo 2: no image of a format .* \(and 1 more in this batch\)$"):
        changed.read(np.arange(4), seed=0, epoch=0)


# ---- the cache of decoded images


@pytest.fixture
def cached(reader, examples, tmp_path):
    cache = load_or_decode(tmp_path / "cache", examples, reader.pool, Shrinking(12))
    return dataclasses.replace(
        reader, preparation=Preparation(PROCESSOR, EVERYTHING, kept_edge=12), cache=cache
    )


def test_a_cache_changes_nothing(cached):
    uncached = dataclasses.replace(cached, cache=None)
    windows = np.arange(COUNT)
    assert_equal(cached.read(windows, seed=1, epoch=1), uncached.read(windows, seed=1, epoch=1))
    sizes = [cached.cache.read(number).shape for number in range(COUNT)]
    assert {min(shape[:2]) for shape in sizes} == {12}


class Undecodable(DecodingPool):
    def prepare(self, operation, requests, finish=None):
        raise AssertionError("the cache was there")


def find_file(folder):
    [path] = (folder / "cache").glob("pixels-*.arrow")
    assert not list((folder / "cache").glob("*.unfinished"))
    return path


def test_a_cache_is_made_once_and_for_its_images(cached, examples, tmp_path):
    pool, folder = Undecodable(0), tmp_path / "cache"
    assert load_or_decode(folder, examples, pool, Shrinking(12)) is not None
    for others, shrinking in ((examples[::-1], Shrinking(12)), (examples, Shrinking(13))):
        with pytest.raises(AssertionError, match="the cache was there"):
            load_or_decode(folder, others, pool, shrinking)
    find_file(tmp_path)  # nothing incomplete is left


def test_what_a_killed_process_left_is_removed(cached, examples, tmp_path):
    path = find_file(tmp_path)
    path.rename(path.with_name(f"{path.stem}-x1.unfinished"))
    assert load_or_decode(tmp_path / "cache", examples, cached.pool, Shrinking(12)) is not None
    assert find_file(tmp_path) == path


def test_targets_may_be_numbers_of_outputs(reader):
    numbers = reader.targets.argmax(1).astype(np.int32)
    by_number = dataclasses.replace(reader, targets=numbers, outputs=3)
    windows = np.array([5, 0, 2])
    assert_equal(by_number.read(windows, seed=1, epoch=2), reader.read(windows, seed=1, epoch=2))
    assert by_number.fingerprint != dataclasses.replace(by_number, outputs=4).fingerprint


def test_a_damaged_image_is_decoded_again(cached, examples, tmp_path, caplog):
    path, windows = find_file(tmp_path), np.arange(COUNT)
    expected = cached.read(windows, seed=1, epoch=1)
    content = bytearray(path.read_bytes())
    place = content.index(cached.cache.read(3).tobytes())
    content[place + 5] ^= 1
    path.write_bytes(bytes(content))
    cache = load_or_decode(tmp_path / "cache", examples, cached.pool, Shrinking(12))
    damaged = dataclasses.replace(cached, cache=cache)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert_equal(damaged.read(windows, seed=1, epoch=1), expected)
    assert [cache.read(number) is None for number in range(COUNT)] == [number == 3 for number in range(COUNT)]
    assert len(caplog.records) == 1 and "is damaged; damaged images are decoded" in caplog.text


@pytest.mark.parametrize(
    "damage", [lambda content: content[:-200], lambda content: b"", lambda content: content[:100] * 9]
)
def test_a_damaged_file_is_made_again(cached, examples, tmp_path, caplog, damage):
    path = find_file(tmp_path)
    content = path.read_bytes()
    path.write_bytes(damage(content))
    load_or_decode(tmp_path / "cache", examples, cached.pool, Shrinking(12))
    assert "is damaged, so the images are decoded again" in caplog.text
    assert path.read_bytes() == content


def test_a_folder_that_cannot_be_written_is_no_error(cached, examples, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    assert load_or_decode(tmp_path / "file" / "cache", examples, cached.pool, Shrinking(12)) is None
    assert "decoded images are not cached" in caplog.text


def test_an_interrupted_cache_leaves_nothing(cached, examples, tmp_path):
    broken = [*examples[:3], dataclasses.replace(examples[3], image=b"x", digest="0" * 64)]
    with pytest.raises(UserError, match="photo 3: no image of a format"):
        load_or_decode(tmp_path / "cache", broken, cached.pool, Shrinking(12))
    find_file(tmp_path)
