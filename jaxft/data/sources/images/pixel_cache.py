"""Keeps decoded and resized images in a file that is either complete or absent."""

import hashlib
import logging
import os
import pathlib
import struct
import tempfile
import zlib
from collections.abc import Sequence

import numpy as np
import PIL
import pyarrow as pa

from jaxft.data.sources.images.decoding import BrokenImage
from jaxft.data.sources.images.decoding_pool import DecodingPool, ImageRequest
from jaxft.data.sources.images.preparation import Shrinking
from jaxft.data.sources.images.reading import ImageExample
from jaxft.io.locks import lock

_BATCH = 256  # images that are in memory at once
_SCHEMA = pa.schema(
    {"pixels": pa.large_binary(), "height": pa.int32(), "width": pa.int32(), "checksum": pa.uint32()}
)
_log = logging.getLogger(__name__)


class PixelCache:
    """Decoded images in a mapped file. Each image is compared with its checksum whenever it is read."""

    def __init__(self, batches: Sequence[pa.RecordBatch], path: pathlib.Path):
        """Makes a cache of the batches of the file `path`; each but the last has `_BATCH` images."""
        self._batches, self._path = batches, path
        self._has_warned = False

    def read(self, number: int) -> np.ndarray | None:
        """Returns an image, uint8 `[H, W, 3]`, without a copy; None, with a warning, if it is damaged."""
        batch, row = self._batches[number // _BATCH], number % _BATCH
        height, width, checksum = (
            batch.column(name)[row].as_py() for name in ("height", "width", "checksum")
        )
        pixels = np.frombuffer(batch.column("pixels")[row].as_buffer(), np.uint8)
        if checksum == _compute_checksum(number, height, width, pixels) and len(pixels) == height * width * 3:
            return pixels.reshape(height, width, 3)
        if not self._has_warned:
            _log.warning(
                "the cache %s is damaged; damaged images are decoded whenever they are read", self._path
            )
            self._has_warned = True
        return None


def load_or_decode(
    folder: pathlib.Path,
    examples: Sequence[ImageExample],
    pool: DecodingPool,
    shrinking: Shrinking,
) -> PixelCache | None:
    """Returns the cache of these examples, and decodes them into a file if there is none.

    Processes that share the folder wait for the one that decodes. Returns None, with a warning, if the file cannot be
    written. Raises `UserError` for an image that cannot be decoded.

    Args:
      folder: the folder of caches.
      examples: checked examples, see `checking.check_images`.
      pool: decodes the images.
      shrinking: how they are resized; `Preparation.kept_edge` must be the same edge.
    """
    digest = hashlib.sha256(f"{PIL.__version__} {shrinking.to_json()}".encode())
    for example in examples:
        assert example.digest, "examples of a cache are checked first"
        digest.update(example.digest.encode())
    path = folder / f"pixels-{digest.hexdigest()[:32]}.arrow"
    try:
        with lock(path, "decodes the same images"):
            if (cache := _load(path, len(examples))) is None:
                _save(path, examples, pool, shrinking)
                cache = _load(path, len(examples))
        return cache
    except (OSError, pa.ArrowException) as error:
        _log.warning(
            "decoded images are not cached, for %s cannot be written (%s)",
            folder,
            getattr(error, "strerror", error),
        )
        return None


def _load(path: pathlib.Path, count: int) -> PixelCache | None:
    """Maps a file of `_save`; removes it, with a warning, if it is damaged. None if there is none."""
    try:
        with pa.memory_map(str(path)) as file:
            reader = pa.ipc.open_file(file)
            batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
        for batch in batches:
            batch.validate(full=True)  # so that no offset leads out of the file
        sizes = [batch.num_rows for batch in batches]
        if sum(sizes) == count and set(sizes[:-1]) <= {_BATCH} and batches[0].schema == _SCHEMA:
            return PixelCache(batches, path)
        problem = "it holds other images"
    except FileNotFoundError:
        return None
    except (OSError, pa.ArrowException, ValueError) as error:
        problem = str(error).partition("\n")[0]
    _log.warning("the cache %s is damaged, so the images are decoded again: %s", path, problem)
    path.unlink(missing_ok=True)
    return None


def _save(
    path: pathlib.Path, examples: Sequence[ImageExample], pool: DecodingPool, shrinking: Shrinking
) -> None:
    """Decodes images into a file next to `path`, which is then renamed. The caller holds the lock of `path`."""
    for left in path.parent.glob(f"{path.stem}-*.unfinished"):  # by a process that was killed
        left.unlink(missing_ok=True)
    with tempfile.NamedTemporaryFile(
        dir=path.parent, prefix=f"{path.stem}-", suffix=".unfinished", delete=False
    ) as file:
        try:
            with pa.ipc.new_file(file, _SCHEMA) as writer:
                for start in range(0, len(examples), _BATCH):
                    requests = [
                        ImageRequest(example.image, example.origin)
                        for example in examples[start : start + _BATCH]
                    ]
                    writer.write_batch(_make_batch(pool.prepare(shrinking, requests), start))
            file.flush()
            os.fsync(file.fileno())
            os.replace(file.name, path)
        except BaseException:
            pathlib.Path(file.name).unlink(missing_ok=True)
            raise


def _make_batch(images: Sequence[np.ndarray | BrokenImage], start: int) -> pa.RecordBatch:
    """Returns the rows of images, of which the first has the number `start`."""
    columns: dict[str, list[object]] = {name: [] for name in _SCHEMA.names}
    for number, pixels in enumerate(images, start):
        if isinstance(pixels, BrokenImage):
            raise pixels
        height, width, _ = pixels.shape
        columns["pixels"].append(pixels.tobytes())
        columns["height"].append(height)
        columns["width"].append(width)
        columns["checksum"].append(_compute_checksum(number, height, width, pixels))
    return pa.RecordBatch.from_pydict(columns, _SCHEMA)


def _compute_checksum(number: int, height: int, width: int, pixels: np.ndarray) -> int:
    """Returns a checksum of an image, of its size and of its place."""
    return zlib.crc32(
        np.ascontiguousarray(pixels).data, zlib.crc32(struct.pack("<qii", number, height, width))
    )
