"""Reads records from Parquet files."""

from collections.abc import Iterator, Mapping
from typing import Any

from jaxft.data.sources import encodings, files
from jaxft.data.sources.records.record_values import Record, check_columns
from jaxft.errors import UserError, first_line

BATCH_ROWS, BATCH_BYTES = 1024, 16 << 20  # that are in memory at once, about


def read_parquet(source: str) -> tuple[Iterator[Record], Mapping[str, Any]]:
    """Returns the rows of a Parquet file, read in batches, and the features that `datasets` stored in it."""
    import datasets
    import pyarrow
    import pyarrow.parquet

    if source == "-":
        raise UserError("<stdin>: Parquet cannot be read from a pipe; name the file")
    if not (sample := files.peek(source)).startswith(b"PAR1") and (
        description := encodings.describe_binary(sample)
    ):
        raise UserError(f"{source}: no Parquet file, but {description}")
    try:
        file = pyarrow.parquet.ParquetFile(source)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{source}: not a Parquet file that can be read ({first_line(error)})") from None
    try:
        features = datasets.Features.from_arrow_schema(file.schema_arrow)
    except Exception as error:  # what `datasets` raises for features of another shape has no common class
        raise UserError(
            f"{source}: the features that `datasets` stored in it cannot be read ({first_line(error)}); write it again"
        ) from None
    check_columns(file.schema_arrow.names, source)
    return iterate_rows(file.iter_batches(batch_size=_choose_batch(file.metadata)), source), features


def _choose_batch(metadata: Any) -> int:
    """Returns the number of rows that are read at once: most, of `BATCH_BYTES` together on average."""
    size = sum(metadata.row_group(index).total_byte_size for index in range(metadata.num_row_groups))
    return max(1, min(BATCH_ROWS, BATCH_BYTES * metadata.num_rows // max(size, 1)))


def iterate_rows(batches: Iterator[Any], source: str) -> Iterator[Record]:
    """Yields the rows of batches of arrow, with their numbers from 1. `source` names the table."""
    import pyarrow

    row = 0
    while True:
        try:
            batch = next(batches, None)
        except (pyarrow.ArrowException, OSError) as error:
            raise UserError(
                f"{source}: damaged after row {row} ({first_line(error)}); copy or write the file again"
            ) from None
        if batch is None:
            return
        for record in _make_records(batch, source, row):
            row += 1
            yield f"{source}, row {row}", f"{source}:{row}", record


def _make_records(batch: Any, source: str, row: int) -> list[dict[str, Any]]:
    """Returns the records of a batch that follows `row` other rows.

    Raises `UserError` with row and key for a value that Python cannot hold, such as bytes that are not UTF-8 in a
    column of text, or a date after the year 9999.
    """
    try:
        return batch.to_pylist()
    except Exception as error:  # of pyarrow, and of Python's decoders, dates and time zones
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            for number, value in enumerate(column, row + 1):
                _check_value(value, f"{source}, row {number}, key {name!r}")
        raise UserError(
            f"{source}, rows {row + 1} to {row + len(batch)}: they cannot be read ({first_line(error)})"
        ) from None


def _check_value(value: Any, place: str) -> None:
    """Raises `UserError` for a value of arrow that Python cannot hold."""
    try:
        value.as_py()
    except Exception as error:
        raise UserError(
            f"{place}: a value that cannot be read ({first_line(error)}); correct it, or leave the column out"
        ) from None
