"""Copies of files in object stores: the addresses of paths and sources, and what is copied."""

import pathlib
import uuid

import fsspec
import pytest

from jaxft.errors import UserError
from jaxft.hub.addresses import resolve_address
from jaxft.io import stores
from jaxft.tasks.reading import cache_folder


@pytest.fixture
def bucket():
    """The address of a new bucket of fsspec's store in memory, which has no folders, renames or locks."""
    return f"memory://{uuid.uuid4().hex}"


def put(bucket, **files):
    store = fsspec.filesystem("memory")
    for name, text in files.items():
        store.pipe_file(f"{bucket}/{name.replace('__', '/')}.txt", text.encode())


@pytest.mark.parametrize(
    ("path", "address"),
    [
        ("gs://bucket/run/", "gs://bucket/run"),
        (pathlib.Path("s3://bucket/a/b"), "s3://bucket/a/b"),  # pathlib joins slashes
        ("memory://x", "memory://x"),
        ("/tmp/run", None),
        ("runs/ner", None),
        ("hub:conll2003/train", None),
        ("demo:ner/train", None),
        ("package:minilm/model", None),
        ("C:/data", None),
        ("a=x.jsonl;b=y.jsonl", None),
    ],
)
def test_addresses_are_told_from_paths(path, address):
    assert stores.address_of(path) == address


def test_sources_are_copied_and_keep_their_pattern_filter_and_shard(bucket):
    put(bucket, data__part_1="one", data__part_2="two", data__deep__part_3="three", other="x")

    def content(source):
        import glob

        return {
            path[len(source.rpartition("jaxft-")[0]) :]: pathlib.Path(path).read_text()
            for path in glob.glob(source)
        }

    source = stores.fetch_source(f"{bucket}/data/part_*.txt")
    assert sorted(content(source).values()) == ["one", "two"]
    assert stores.with_addresses(source) == f"{bucket}/data/part_*.txt"
    assert stores.fetch_source(f"{bucket}/data/part_*.txt#1/2") == f"{source}#1/2"
    single = stores.fetch_source(f"a={bucket}/data/part_1.txt?fold=1;b=/tmp/y.jsonl")
    assert single.startswith("a=/") and single.endswith("/part_1.txt?fold=1;b=/tmp/y.jsonl")
    folder = pathlib.Path(stores.fetch_source(f"{bucket}/data"))
    assert {p.relative_to(folder).as_posix() for p in folder.rglob("*.txt")} == {
        "part_1.txt", "part_2.txt", "deep/part_3.txt",
    }  # fmt: skip
    assert stores.fetch_source("demo:ner/train") == "demo:ner/train"


def test_a_file_that_has_changed_is_copied_anew_and_others_are_not(bucket):
    put(bucket, data="one")
    first = stores.fetch_source(f"{bucket}/data.txt")
    assert stores.fetch_source(f"{bucket}/data.txt") == first
    put(bucket, data="other")
    assert pathlib.Path(stores.fetch_source(f"{bucket}/data.txt")).read_text() == "other"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("memory://nothing/x.txt", "nothing is there"),
        ("memory://nothing/*.txt", "no file is there"),
        ("nosuch://bucket/x", "unknown scheme 'nosuch'"),
        *(
            (
                f"{scheme}://host/x.zip",
                "an address on the web, which jaxft does not read; name a local path, an",
            )
            for scheme in ("http", "https", "ftp")
        ),
    ],
)
def test_what_cannot_be_read_is_one_sentence(source, message):
    with pytest.raises(UserError, match=f"{source.replace('*', '.')}: {message}") as error:
        stores.fetch_source(source)
    assert "\n" not in str(error.value)


def test_a_store_whose_library_is_missing_names_it(monkeypatch):
    def missing(*_):
        raise ImportError("Please install gcsfs")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    with pytest.raises(UserError, match="gs:// needs gcsfs: pip install gcsfs"):
        stores.fetch_source("gs://bucket/x")
    with pytest.raises(UserError, match="webhdfs://host/x: webhdfs:// needs a package: Please install gcsfs"):
        stores.fetch_source("webhdfs://host/x")


def test_a_model_in_a_store_is_copied_without_what_is_not_needed(bucket, tiny_bert):
    store = fsspec.filesystem("memory")
    for path in tiny_bert.iterdir():
        store.pipe_file(f"{bucket}/model/{path.name}", path.read_bytes())
    store.pipe_file(f"{bucket}/model/pytorch_model.bin", b"a pickle")
    folder = resolve_address(f"{bucket}/model")
    assert {p.name for p in folder.iterdir()} == {p.name for p in tiny_bert.iterdir()}
    with pytest.raises(UserError, match="neither config.json nor adapter_config.json is there"):
        resolve_address(bucket)


def test_what_is_written_locally_only_refuses_addresses():
    stores.refuse_address("runs/x", "--output", "no")
    with pytest.raises(
        UserError, match=r"--output s3://b/x: an object store, where a local path was expected; copy"
    ):
        stores.refuse_address(pathlib.Path("s3://b/x"), "--output", "copy it afterwards")
    with pytest.raises(UserError, match="config.data.cache_dir gs://b/cache: an object store"):
        cache_folder("gs://b/cache")
