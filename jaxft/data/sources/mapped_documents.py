"""Keeps texts in a file that is mapped into memory, so that a corpus of any size takes little of it."""

import contextlib
import itertools
import tempfile
from collections.abc import Iterable, Iterator, Sequence

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
_BATCH = 1024  # texts that are in memory at once


class MappedDocuments(Sequence[Document]):
    """Texts, made anew whenever they are asked for. A slice is a list of them."""

    def __init__(self, table: pa.Table, numbers: np.ndarray | None = None):
        """numbers: int64, which rows of the table they are; default all."""
        self._table = table
        self._numbers = np.arange(len(table)) if numbers is None else numbers

    @classmethod
    def from_documents(cls, texts: Iterable[Document]) -> "MappedDocuments":
        """All of `texts`, in a temporary file without a name. Raises `UserError` where that cannot be written."""
        texts = iter(texts)
        with contextlib.ExitStack() as stack:
            with _told():
                file = stack.enter_context(tempfile.NamedTemporaryFile(suffix=".texts"))
                writer = stack.enter_context(pa.ipc.new_file(file, _SCHEMA))
            while some := list(itertools.islice(texts, _BATCH)):
                columns = {name: [getattr(text, name) for text in some] for name in _SCHEMA.names}
                with _told():
                    writer.write_batch(pa.RecordBatch.from_pydict(columns, _SCHEMA))
            with _told():
                writer.close()
                file.flush()
            with pa.memory_map(file.name) as mapped:
                return cls(pa.ipc.open_file(mapped).read_all())

    def __len__(self) -> int:
        return len(self._numbers)

    def __iter__(self) -> Iterator[Document]:
        for start in range(0, len(self), _BATCH):
            yield from self._made(self._numbers[start : start + _BATCH])

    def __getitem__(self, index):
        numbers = self._numbers[index]
        return list(self._made(numbers)) if isinstance(index, slice) else next(self._made(numbers[None]))

    def _made(self, numbers: np.ndarray) -> Iterator[Document]:
        if len(numbers) == 0:
            return
        if numbers[-1] - numbers[0] == len(numbers) - 1:
            rows = self._table.slice(int(numbers[0]), len(numbers))
        else:
            rows = self._table.take(numbers)
        for row in rows.to_pylist():
            yield Document(
                **row | {"cuttable": tuple(row["cuttable"]), "references": tuple(row["references"])}
            )

    def __add__(self, others: "MappedDocuments") -> "MappedDocuments":
        table = pa.concat_tables([self._table, others._table])
        return MappedDocuments(table, np.concatenate([self._numbers, others._numbers + len(self._table)]))

    @property
    def document_ids(self) -> np.ndarray:
        """The document of each: int64 `[N]`."""
        return self._table.column("document").to_numpy()[self._numbers]

    def select(self, chosen: np.ndarray) -> "MappedDocuments":
        """Those where bool `[N]` is true."""
        return MappedDocuments(self._table, self._numbers[chosen])


def hash_documents(texts: Iterable[Document]) -> np.ndarray:
    """A number for each that those with the same prompt and text share: int64 `[N]`, of this process."""
    return np.fromiter((hash((text.prompt, text.text)) for text in texts), np.int64)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{tempfile.gettempdir()}: temporary files cannot be written ({error}); make room there, or name another "
            "folder by the environment variable TMPDIR"
        ) from None
