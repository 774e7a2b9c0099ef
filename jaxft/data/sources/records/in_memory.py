"""Keeps records that a program holds in memory, so that the settings of a run can name them by an address."""

import hashlib
import json
import os
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from jaxft.data.sources.records.parquet import iterate_rows
from jaxft.data.sources.records.record_values import Record, check_columns, describe_type, parse_json
from jaxft.errors import UserError, first_line

PREFIX = "records:"
BATCH = 1024  # rows that are converted at once

_KEPT: weakref.WeakValueDictionary[str, "InMemoryRecords"] = weakref.WeakValueDictionary()


class InMemoryRecords:
    """Records that a program holds. They can be read by their address as long as this object exists.

    Attributes:
      name: their name in messages, such as "train".
      address: `records:NAME/sha256-DIGEST`. The digest is that of the content, so that a run with the same records can
        resume, and with others cannot.
    """

    def __init__(self, name: str, data: Any):
        """Checks and keeps records.

        Args:
          name: their name.
          data: a list of objects (dicts), a pandas DataFrame or a `datasets.Dataset`. A value of a dict may be an image
            of Pillow, an array of pixels or the bytes of a file.

        Raises:
          UserError: the data is of another type, or is none that a file could hold.
        """
        self.name = name
        self._read_values, self.features = _open(name, data)
        digest = hashlib.sha256(repr(dict(self.features)).encode())
        for value in self._read_values():
            digest.update(json.dumps(value, sort_keys=True, default=_describe).encode())
        self.address = f"{PREFIX}{name}/sha256-{digest.hexdigest()[:16]}"
        _KEPT[self.address] = self

    def read(self) -> Iterator[Record]:
        """Yields the records with their numbers from 1, such as "train, record 3" and the origin "train:3"."""
        for number, value in enumerate(self._read_values(), 1):
            yield f"{self.name}, record {number}", f"{self.name}:{number}", value


def find_records(address: str) -> InMemoryRecords:
    """Returns the records of an address. Raises `UserError` if this program does not hold them (any more)."""
    if (records := _KEPT.get(address)) is not None:
        return records
    raise UserError(
        f"{address}: records that a program gave to jaxft.train, and that are not in this program's memory; give the "
        "same records again, or name a file"
    )


def _open(name: str, data: Any) -> tuple[Callable[[], Iterator[Any]], Mapping[str, Any]]:
    """Returns a function that iterates over the values of records, and their features if they have a schema."""
    if (pandas := sys.modules.get("pandas")) and isinstance(data, pandas.DataFrame):
        return _open_frame(name, data)
    if (datasets := sys.modules.get("datasets")) and isinstance(data, datasets.Dataset):
        arrow = data.with_format("arrow")
        return lambda: _iterate_values(arrow.iter(BATCH), name), data.features
    if datasets and isinstance(data, datasets.DatasetDict):
        raise UserError(
            f"{name}: a DatasetDict of {', '.join(data)}; give one of them, such as data[{min(data)!r}]"
        )
    if isinstance(data, Sequence) and not isinstance(data, str | bytes):
        values = [_as_json(f"{name}, record {number}", value) for number, value in enumerate(data, 1)]
        return lambda: iter(values), {}
    hint = (
        f"; a {type(data).__name__} becomes a list by its method tolist()" if hasattr(data, "tolist") else ""
    )
    raise UserError(
        f"{name}: data of type {type(data).__name__}; expected a path or address, a list of records (dicts), a pandas "
        f"DataFrame or a datasets.Dataset{hint}"
    )


def _open_frame(name: str, frame: Any) -> tuple[Callable[[], Iterator[Any]], Mapping[str, Any]]:
    """Opens a pandas DataFrame as if it were a Parquet file: missing values become None."""
    import datasets
    import pyarrow

    unnamed = [column for column in frame.columns if not isinstance(column, str)]
    if unnamed:
        raise UserError(
            f"{name}: the column {unnamed[0]!r} has no text as its name; rename the DataFrame's columns"
        )
    check_columns(list(frame.columns), name)
    try:
        table = pyarrow.Table.from_pandas(frame, preserve_index=False)
        features = datasets.Features.from_arrow_schema(table.schema)
    except (pyarrow.ArrowException, ValueError, TypeError) as error:
        raise UserError(
            f"{name}: the DataFrame cannot be read ({first_line(error)}); give each column values of one type"
        ) from None
    return lambda: _iterate_values(iter(table.to_batches(BATCH)), name), features


def _iterate_values(batches: Iterator[Any], name: str) -> Iterator[Any]:
    """Yields the rows of batches of arrow."""
    return (value for _, _, value in iterate_rows(batches, name))


def _as_json(where: str, value: Any) -> Any:
    """Returns a copy of a record with the types that a line of JSON has: tuples and arrays become lists.

    Images become arrays of pixels, uint8, or bytes, which JSON does not have.
    """
    images = {}
    if isinstance(value, Mapping):
        images = {key: image for key, item in value.items() if (image := _as_image(where, item)) is not None}
        value = {key: item for key, item in value.items() if key not in images}
    try:
        record = parse_json(json.dumps(value, default=_convert))
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{where}: not a record that JSON could hold: {first_line(error)}") from None
    return record | images if images else record


def _as_image(where: str, value: Any) -> Any:
    """Returns the pixels or bytes of an image of Pillow, of an array of pixels or of bytes; None for other values.

    For a broken image it returns the error.
    """
    if isinstance(value, Mapping) and isinstance(value.get("bytes"), bytes):  # as `datasets` has it
        value = value["bytes"]
    if isinstance(value, bytes):
        return value
    if _is_array(value) and value.dtype == "uint8" and value.ndim in (2, 3):
        return value.copy()
    if (pillow := sys.modules.get("PIL.Image")) and isinstance(value, pillow.Image):
        from jaxft.data.sources.images import decoding  # for programs with images alone

        try:  # without a limit; `check_images` applies that of the settings, and counts what is broken
            return decoding.decode_opened(value, where, sys.maxsize)
        except decoding.BrokenImage as error:  # a new one, for this one holds the caller's data by its trace
            return decoding.BrokenImage(str(error))
    return None


def _is_array(value: Any) -> bool:
    """Returns whether a value is an array of numpy, which need not be imported."""
    return (numpy := sys.modules.get("numpy")) is not None and isinstance(value, numpy.ndarray)


def _describe(value: Any) -> str:
    """Returns text that tells a value apart from others."""
    if _is_array(value):
        return f"{value.shape} {_describe(value.tobytes())}"
    if isinstance(value, bytes):
        return f"sha256-{hashlib.sha256(value).hexdigest()}"
    return str(value)


def _convert(value: Any) -> Any:
    """Returns what JSON writes for a path, or for a value of numpy, which knows how to become a list or a number."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{describe_type(value)}; expected text, numbers, lists and dicts")
