"""Images are found in folders, tables, datasets and programs, with their labels; addresses are refused."""

import json
import os
import pathlib

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image

from jaxft.data.sources.class_folders import choose_split_folder
from jaxft.data.sources.formats import FileFormat
from jaxft.data.sources.images import stored_content
from jaxft.data.sources.images.checking import check_images
from jaxft.data.sources.images.decoding import BrokenImage, decode_image
from jaxft.data.sources.images.decoding_pool import DecodingPool, ImageRequest
from jaxft.data.sources.images.preparation import Preparation, Shrinking
from jaxft.data.sources.images.processors import ImageProcessor
from jaxft.data.sources.images.reading import IMAGE_FILES, ImageColumns, read_images
from jaxft.data.sources.labels import MULTI, NUMBER, LabelRules
from jaxft.data.sources.records.in_memory import InMemoryRecords
from jaxft.errors import UserError
from tests.data.sources.images.conftest import make_pixels, save

COLUMNS = ImageColumns()
UNLABELLED = ImageColumns(label=None)


@pytest.fixture
def photos(tmp_path):
    """Writes a folder of labels, with what lies in such folders, and returns its path."""
    names = [
        "cats/2.PNG",
        "cats/10.jpg",
        "cats/young/a.webp",
        "dogs/1.png",
        "dogs/.hidden.png",
        "dogs/notes.txt",
    ]
    for name in [*names, "__MACOSX/cats/1.png", "readme.md", "empty/notes.txt"]:
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(save(make_pixels()))
    return tmp_path / "photos"


def read(source, columns=COLUMNS, **options):
    lines = []
    examples = list(read_images(str(source), columns=columns, log=lines.append, **options))
    return examples, lines


def labels_by_name(examples, folder):
    return [(os.path.relpath(example.origin, folder), example.label) for example in examples]


def test_the_name_of_a_folder_is_the_label_of_all_images_in_it(photos):
    examples, lines = read(photos)
    expected = [
        ("cats/10.jpg", "cats"),
        ("cats/2.PNG", "cats"),
        ("cats/young/a.webp", "cats"),
        ("dogs/1.png", "dogs"),
    ]
    assert labels_by_name(examples, photos) == expected
    assert all(os.path.isabs(example.image) and os.path.exists(example.image) for example in examples)
    assert lines[0].startswith(
        f"{photos}: 2 folders, read as labels, with an image in each file .jpg, .jpeg, "
    )
    assert lines[1].endswith("in the folder of a label: 3 files")
    assert labels_by_name(read(f"{photos}?label=dogs")[0], photos) == expected[3:]
    everything = read(photos, UNLABELLED)[0]
    assert labels_by_name(everything, photos) == [(name, None) for name, _ in expected]


def test_links_are_followed_once_and_links_to_nothing_are_read(photos):
    (photos / "cats/loop").symlink_to(photos)
    (photos / "birds").symlink_to(photos / "dogs")
    (photos / "cats/gone.png").symlink_to(photos / "nothing")
    (photos / "cats/itself.png").symlink_to("itself.png")
    (photos / "itself").symlink_to("itself")
    examples = labels_by_name(read(photos)[0], photos)
    assert [label for _, label in examples].count("birds") == 1
    broken_links = {("cats/gone.png", "cats"), ("cats/itself.png", "cats")}
    assert broken_links <= set(examples)  # `check_images` names them
    assert not any("loop/cats" in name for name, _ in examples)


def test_a_folder_that_cannot_be_read_is_named(photos, monkeypatch):
    scan = os.scandir

    def refuse(folder):
        if str(folder).endswith("young"):
            raise PermissionError(13, "Permission denied")
        return scan(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    for columns in (COLUMNS, UNLABELLED):
        with pytest.raises(
            UserError, match=r"cats/young: the folder cannot be read \(Permission denied\); make it"
        ):
            read(photos, columns)


def test_folders_of_splits_are_chosen_or_named(photos, tmp_path):
    for split in ("train", "val"):
        (tmp_path / "splits" / split).parent.mkdir(exist_ok=True)
        (tmp_path / "splits" / split).symlink_to(photos)
    splits = str(tmp_path / "splits")
    assert choose_split_folder(splits, "train", IMAGE_FILES) == f"{splits}/train"
    assert choose_split_folder(splits, "dev", IMAGE_FILES) == f"{splits}/val"
    assert choose_split_folder(splits, "test", IMAGE_FILES) == splits
    assert choose_split_folder(str(photos), "train", IMAGE_FILES) == str(photos)
    with pytest.raises(
        UserError, match=f"an image in each file .*LABEL/NAME.jpg; name {splits}/train or {splits}/val"
    ):
        read(splits)
    with pytest.raises(UserError, match="a folder for each of two labels or more"):
        read(photos / "cats")


def test_image_files_and_patterns_of_them_have_no_labels(photos):
    pattern = f"{photos}/*/1*.*g"
    assert labels_by_name(read(pattern, UNLABELLED)[0], photos) == [
        ("cats/10.jpg", None),
        ("dogs/1.png", None),
    ]
    assert len(read(photos / "cats/2.PNG", UNLABELLED)[0]) == 1
    with pytest.raises(UserError, match="image files without labels; name a folder"):
        read(pattern)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".json", ".tsv", ".parquet"])
def test_paths_are_relative_to_the_file_of_records(photos, suffix, tmp_path):
    rows = [{"file": "cats/10.jpg", "kind": "cat"}, {"file": "../photos/dogs/1.png", "kind": "dog"},
            {"file": str(photos / "cats/2.PNG"), "kind": "cat"}]  # fmt: skip
    path = photos / f"table{suffix}"
    if suffix == ".parquet":
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path)
    elif suffix in (".csv", ".tsv"):
        divider = "," if suffix == ".csv" else "\t"
        path.write_text(
            "\n".join(divider.join(row) for row in [["file", "kind"], *(row.values() for row in rows)])
        )
    else:
        path.write_text(json.dumps(rows) if suffix == ".json" else "\n".join(map(json.dumps, rows)))
    examples, _ = read(path, ImageColumns("file", "kind"))
    assert [example.label for example in examples] == ["cat", "dog", "cat"]
    assert [example.image for example in examples] == [
        str(photos / name) for name in ("cats/10.jpg", "dogs/1.png", "cats/2.PNG")
    ]
    assert examples[0].origin.startswith(f"{path}:")
    assert len(read(f"{path}?kind=dog", ImageColumns("file", "kind"))[0]) == 1


def test_a_list_of_paths_has_no_labels(photos):
    (photos / "list.txt").write_text("cats/10.jpg\ndogs/1.png\n")
    examples, _ = read(photos / "list.txt", UNLABELLED)
    assert [example.image for example in examples] == [
        str(photos / "cats/10.jpg"),
        str(photos / "dogs/1.png"),
    ]
    with pytest.raises(UserError, match="plain text has no labels"):
        read(photos / "list.txt")


@pytest.fixture(scope="module")
def dataset():
    """A dataset of an `Image` and a `ClassLabel` column, as the hub has them."""
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
    )
    images = [{"bytes": save(make_pixels(seed=seed)), "path": f"{seed}.png"} for seed in range(3)]
    return datasets.Dataset.from_dict({"image": images, "label": [0, 1, 0]}, features)


def assert_is_dataset(examples):
    assert [example.label for example in examples] == ["cat", "dog", "cat"]
    assert examples[0].label_names == ("cat", "dog")
    for seed, example in enumerate(examples):
        assert isinstance(example.image, bytes)  # not decoded yet
        np.testing.assert_array_equal(decode_image(example.image, example.origin), make_pixels(seed=seed))


def test_image_columns_of_parquet(dataset, tmp_path):
    dataset.to_parquet(tmp_path / "data.parquet")
    assert_is_dataset(read(tmp_path / "data.parquet")[0])


def test_bytes_of_large_files_are_mapped(dataset, tmp_path, monkeypatch):
    for number in range(3):
        dataset.to_parquet(tmp_path / f"{number}.parquet")
    monkeypatch.setattr(stored_content, "CHUNK_BYTES", 2000)
    examples, _ = read(tmp_path / "*.parquet")
    assert len(examples) == 9 and isinstance(examples[0].image, memoryview)
    for number, example in enumerate(examples):
        assert example.label == ("cat", "dog", "cat")[number % 3]
        np.testing.assert_array_equal(
            decode_image(example.image, example.origin), make_pixels(seed=number % 3)
        )
    shards = [read(f"{tmp_path}/*.parquet#{number}/2")[0] for number in (1, 2)]
    assert sorted(map(len, shards)) == [3, 6]  # of data.shards=2
    monkeypatch.setattr(stored_content.tempfile, "TemporaryFile", lambda: open("/nothing/file", "wb"))
    with pytest.raises(UserError, match="temporary files cannot be written .*TMPDIR"):
        read(tmp_path / "*.parquet")


def test_image_columns_of_the_hub_are_not_decoded_while_they_are_read(dataset, tmp_path, monkeypatch):
    """A folder of Parquet is read by `datasets` as one of the hub is."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "pets").mkdir()
    dataset.to_parquet(tmp_path / "pets/train.parquet")
    assert_is_dataset(read(f"hub:{tmp_path}/pets/train")[0])


def test_image_columns_of_a_dataset_in_memory(dataset):
    records = InMemoryRecords("train", dataset)
    assert_is_dataset(read(records.address)[0])


def test_images_in_memory(tmp_path):
    """Arrays, images of Pillow, bytes and paths. What the program does to them later changes nothing."""
    pixels = make_pixels()
    path = pathlib.Path(tmp_path / "photo.png")
    path.write_bytes(save(pixels))
    array, image = pixels.copy(), Image.fromarray(pixels)
    images = [
        array,
        image,
        save(pixels),
        path,
        str(path),
        {"bytes": save(pixels), "path": None},
        Image.open(path),
    ]
    values = [{"image": value, "label": number % 2} for number, value in enumerate(images)]
    records = InMemoryRecords("train", values)
    array[:] = 0
    examples, _ = read(records.address)
    assert [example.label for example in examples] == list("0101010")
    for example in examples:
        np.testing.assert_array_equal(decode_image(example.image, example.origin), pixels)
    grey = InMemoryRecords("train", [{"image": Image.fromarray(pixels[..., 0])}, {"image": pixels[..., 0]}])
    assert [decode_image(example.image, "").shape for example in read(grey.address, UNLABELLED)[0]] == [
        (13, 17, 3)
    ] * 2


@pytest.mark.parametrize("count", [0, 2])
def test_broken_images_of_pillow_are_left_out_on_request(count, workers, tmp_path):
    (tmp_path / "cut.png").write_bytes(save(make_pixels())[:90])
    images = [make_pixels(), Image.open(tmp_path / "cut.png")]
    records = InMemoryRecords("train", [{"image": image, "label": "a"} for image in images])
    examples, lines = read(records.address)
    pool = workers if count else DecodingPool(0)
    with pytest.raises(
        UserError, match="train: 1 of 2 images is broken: train, record 2: the image is truncated"
    ):
        check_images(examples, pool, name="train")
    assert len(check_images(examples, pool, name="train", on_broken="skip", log=lines.append)) == 1
    assert "train, record 2: the image is truncated" in lines[-1]
    for operation in (Preparation(ImageProcessor.from_hf({}, "ViTImageProcessor")), Shrinking(8)):
        [broken] = pool.prepare(operation, [ImageRequest(examples[1].image, "x")])
        assert isinstance(broken, BrokenImage)


def test_the_address_of_images_in_memory_is_their_content():
    def address(pixels):
        return InMemoryRecords("train", [{"image": pixels}]).address

    large = make_pixels(200, 300)  # numpy prints such arrays with dots in the middle
    changed = large.copy()
    changed[100, 150] ^= 1
    assert address(large) == address(large.copy()) != address(changed)
    assert address(large) == address(Image.fromarray(large))
    assert address(save(large)) != address(save(changed))


def test_labels_are_of_any_kind(tmp_path):
    rows = [
        {"image": "a.png", "tags": ["red", "round"], "size": 2.5},
        {"image": "b.png", "tags": [], "size": 1},
    ]
    path = tmp_path / "photos.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    tags, _ = read(path, ImageColumns(label="tags"), rules=LabelRules(MULTI))
    assert [example.label for example in tags] == [("red", "round"), ()]
    sizes, _ = read(path, ImageColumns(label="size"), rules=LabelRules(NUMBER))
    assert [example.label for example in sizes] == [2.5, 1.0]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (
            {"image": "https://example.org/cat.jpg"},
            "'https://example.org/cat.jpg' is an address; download the image",
        ),
        ({"image": "hf://datasets/cat.jpg"}, "is an address"),
        ({"image": "data:image/png;base64,AAAA"}, "is an address"),
        ({"image": {"bytes": None, "path": "zip://cat.jpg::https://example.org/cats.zip"}}, "is an address"),
        ({"image": None}, "key 'image': null where an image was expected"),
        ({"image": {"bytes": None, "path": None}}, "null where"),
        ({"image": {"url": "x"}}, "an? object where an image"),
        ({"image": " "}, "an empty string where an image"),
        ({"image": [[1, 2], [3, 4]]}, "a list where an image"),
        (
            {"picture": "cat.jpg"},
            r"no key 'image' in \['label', 'picture'\]; name the one that is meant in config.data",
        ),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_what_is_no_image_is_refused(record, message, tmp_path):
    path = tmp_path / "photos.jsonl"
    path.write_text(json.dumps({"label": "cat", **record}) + "\n")
    with pytest.raises(UserError, match=f"photos.jsonl, line 1.*{message}"):
        read(path)


def test_a_missing_label_names_its_setting(tmp_path):
    path = tmp_path / "photos.jsonl"
    path.write_text('{"image": "cat.jpg"}\n')
    with pytest.raises(
        UserError, match="no key 'label' in .*; name the one that is meant in config.data.label"
    ):
        read(path)


def test_sources_that_are_none(tmp_path):
    with pytest.raises(UserError, match="no such file .*a folder of images, demo:digits/train"):
        read(tmp_path / "nothing")
    with pytest.raises(UserError, match="is not for images; expected auto, text, jsonl"):
        read(tmp_path, format=FileFormat("conll"))
    with pytest.raises(UserError, match="^https://example.org/cats.zip: an address; download the images"):
        read("https://example.org/cats.zip")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty, it holds no image"):
        read(tmp_path / "empty", UNLABELLED)


def test_a_stream_of_records(tmp_path):
    lines = [b'{"image": "cat.jpg"}\n']
    stream = type("Lines", (), {"name": "<socket>", "__iter__": lambda self: iter(lines)})()
    [example] = read_images(stream, columns=UNLABELLED, format=FileFormat("jsonl"))
    assert example.image == os.path.abspath("cat.jpg") and example.origin == "<socket>:1"
