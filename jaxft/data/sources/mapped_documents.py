"""Keeps documents in a memory-mapped file, so that a corpus of any size takes little memory."""

import contextlib
import itertools
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np
import pyarrow as pa

from jaxft.data.sources.documents import Document
from jaxft.errors import UserError

_SCHEMA = pa.schema(
    {
        "text": pa.large_string(),
        "document": pa.int64(),
        "origin": pa.large_string(),
        "prompt": pa.large_string(),
        "cuttable": pa.list_(pa.int64()),
        "references": pa.list_(pa.large_string()),
    }
)
_BATCH = 1024  # documents that are in memory at once


class MappedDocuments(Sequence[Document]):
    """A sequence of documents, which creates each document when it is read. A slice is a list of documents."""

    def __init__(self, table: pa.Table, rows: np.ndarray | None = None):
        """Makes a sequence of the documents in a table's `rows`, int64 `[N]`, or in all rows."""
        self._table = table
        self._rows = np.arange(len(table)) if rows is None else rows

    @classmethod
    def from_documents(cls, documents: Iterable[Document]) -> "MappedDocuments":
        """Writes documents to a temporary file, maps it and unlinks it.

        Raises `UserError` if the file cannot be written.
        """
        documents = iter(documents)
        with contextlib.ExitStack() as stack:
            with _report_write_errors():
                file = stack.enter_context(tempfile.NamedTemporaryFile(suffix=".texts"))
                writer = stack.enter_context(pa.ipc.new_file(file, _SCHEMA))
            while batch := list(itertools.islice(documents, _BATCH)):
                columns = {name: [getattr(document, name) for document in batch] for name in _SCHEMA.names}
                with _report_write_errors():
                    writer.write_batch(pa.RecordBatch.from_pydict(columns, _SCHEMA))
            with _report_write_errors():
                writer.close()
                file.flush()
            with pa.memory_map(file.name) as mapped:
                return cls(pa.ipc.open_file(mapped).read_all())

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Document]:
        for start in range(0, len(self), _BATCH):
            yield from self._read(self._rows[start : start + _BATCH])

    @overload
    def __getitem__(self, index: int) -> Document: ...

    @overload
    def __getitem__(self, index: slice) -> list[Document]: ...

    def __getitem__(self, index: int | slice) -> Document | list[Document]:
        rows = self._rows[index]
        return list(self._read(rows)) if isinstance(index, slice) else next(self._read(rows[None]))

    def _read(self, rows: np.ndarray) -> Iterator[Document]:
        """Yields the documents of the table's rows, int64 `[N]`."""
        if len(rows) == 0:
            return
        if rows[-1] - rows[0] == len(rows) - 1:
            table = self._table.slice(int(rows[0]), len(rows))
        else:
            table = self._table.take(rows)
        for fields in table.to_pylist():
            tuples = {name: tuple(fields[name]) for name in ("cuttable", "references")}
            yield Document(**fields | tuples)

    def __add__(self, others: "MappedDocuments") -> "MappedDocuments":
        table = pa.concat_tables([self._table, others._table])
        return MappedDocuments(table, np.concatenate([self._rows, others._rows + len(self._table)]))

    @property
    def document_ids(self) -> np.ndarray:
        """Returns the number of each example's document: int64 `[N]`."""
        return self._table.column("document").to_numpy()[self._rows]

    def select(self, chosen: np.ndarray) -> "MappedDocuments":
        """Returns the documents for which `chosen`, bool `[N]`, is True."""
        return MappedDocuments(self._table, self._rows[chosen])


def hash_documents(documents: Iterable[Document]) -> np.ndarray:
    """Hashes the prompt and text of each document, int64 `[N]`. Hashes of different processes are not comparable."""
    return np.fromiter((hash((document.prompt, document.text)) for document in documents), np.int64)


@contextlib.contextmanager
def _report_write_errors() -> Iterator[None]:
    """Turns `OSError` into `UserError`."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{tempfile.gettempdir()}: temporary files cannot be written ({error}); make room there, or name another "
            "folder by the environment variable TMPDIR"
        ) from None
