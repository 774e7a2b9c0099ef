"""Keeps the bytes of images in temporary files that are mapped, so that a data set of any size takes little memory."""

import dataclasses
import mmap
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any

from jaxft.errors import UserError

CHUNK_BYTES = 64 << 20  # that stay in memory


def store_content(examples: Iterable[Any]) -> Iterator[Any]:
    """Yields examples whose images are bytes with these bytes in mapped files, which end with the examples.

    At most `CHUNK_BYTES` and an image are in memory; examples of fewer bytes in all stay as they are.

    Args:
      examples: dataclasses with a field `image`.

    Raises:
      UserError: a file cannot be written.
    """
    pending: list[Any] = []
    size = 0
    for example in examples:
        pending.append(example)
        size += len(example.image) if isinstance(example.image, bytes) else 0
        if size >= CHUNK_BYTES:
            yield from _map(pending, size)
            pending, size = [], 0
    yield from pending


def _map(examples: list[Any], size: int) -> Iterator[Any]:
    """Yields the examples with their bytes, `size` in all, in a file that has no name any more."""
    try:
        with tempfile.TemporaryFile() as file:
            file.writelines(example.image for example in examples if isinstance(example.image, bytes))
            file.flush()
            content = memoryview(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ))
    except OSError as error:
        raise UserError(
            f"{tempfile.gettempdir()}: temporary files cannot be written ({error}); make room there, or name another "
            "folder by the environment variable TMPDIR"
        ) from None
    start = 0
    for example in examples:
        if isinstance(example.image, bytes):
            end = start + len(example.image)
            example = dataclasses.replace(example, image=content[start:end])
            start = end
        yield example
