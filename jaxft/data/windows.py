"""Holds encoded windows as an Arrow record batch, and keeps them in a cache file that is whole or absent."""

import contextlib
import fcntl
import logging
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from jaxft.data.packing import offsets_of

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Windows:
    """Encoded text, one window a row of an Arrow record batch (in memory, or mapped from the cache).

    Columns: `input_ids` (a list of int32) and `sentence` (int32) always. Where tokens are labelled, `labels` and
    `word` (lists of the same length); where windows are, `labels` and `weights` (a value or vector a window).
    The properties show them as flat numpy arrays without a copy; window w is `[offsets[w]:offsets[w + 1]]`, also where
    the rows are a slice of others.
    """

    rows: pa.RecordBatch

    def __len__(self) -> int:
        return self.rows.num_rows

    def _flat(self, column: str) -> np.ndarray:
        return self.rows.column(column).values.to_numpy(zero_copy_only=True)

    def column(self, name: str) -> np.ndarray:
        """A column that only some encodings have: of one value a window `[N]`, of C `[N, C]`, of tokens `[tokens]`."""
        column = self.rows.column(name)
        if pa.types.is_fixed_size_list(column.type):
            return column.flatten().to_numpy(zero_copy_only=True).reshape(-1, column.type.list_size)
        if pa.types.is_large_list(column.type):
            return self._flat(name)
        return column.to_numpy(zero_copy_only=True)

    def has(self, name: str) -> bool:
        """Whether there is such a column."""
        return name in self.rows.schema.names

    @cached_property
    def offsets(self) -> np.ndarray:
        """Where each window begins in the flat arrays: int64 `[N + 1]`."""
        return self.rows.column("input_ids").offsets.to_numpy()

    @cached_property
    def lengths(self) -> np.ndarray:
        """Subwords in each window, special tokens included: int32 `[N]`."""
        return np.diff(self.offsets).astype(np.int32)

    @cached_property
    def input_ids(self) -> np.ndarray:
        """Token ids, special tokens included: int32 `[tokens]`."""
        return self._flat("input_ids")

    @cached_property
    def labels(self) -> np.ndarray:
        """Label ids, -100 where there is no loss: int32 `[tokens]`."""
        return self._flat("labels")

    @cached_property
    def labelled(self) -> np.ndarray:
        """How many tokens of each window have a label: int64 `[N]`."""
        found = np.empty(len(self), np.int64)
        for first in range(0, len(self), 1 << 16):  # a corpus may be larger than memory
            offsets = self.offsets[first : first + (1 << 16) + 1]
            before = offsets_of(self.labels[offsets[0] : offsets[-1]] >= 0)
            found[first : first + len(offsets) - 1] = np.diff(before[offsets - offsets[0]])
        return found

    @cached_property
    def word(self) -> np.ndarray:
        """At the token that scores a word, the word's index in its sentence, else -1: int32 `[tokens]`."""
        return self._flat("word")

    @cached_property
    def sentence(self) -> np.ndarray:
        """The index of each window's sentence among those encoded: int32 `[N]`."""
        return self.rows.column("sentence").to_numpy(zero_copy_only=True)


def cached(path: pathlib.Path | None, encode: Callable[[], Windows]) -> Windows:
    """What `encode` gives, kept in the file `path` if there is to be one.

    Of several processes that share the file one encodes, while the others wait, and then map what it left; where it
    could leave nothing, they encode for themselves.
    """

    def keep() -> Windows:
        found = encode()
        save(found, path)
        return found

    found = _kept(path, keep)
    return encode() if found is None else found


def cached_parts(path: pathlib.Path | None, encode: Callable[[], Iterable[Windows]]) -> Windows:
    """As `cached`, the parts of `encode` joined, with one of them in memory at a time where they can be written."""

    def keep() -> Windows | None:
        save_parts(encode(), path)
        return load(path)

    found = _kept(path, keep)
    return joined(list(encode())) if found is None else found


def _kept(path: pathlib.Path | None, keep: Callable[[], Windows | None]) -> Windows | None:
    """What is at `path`, or what `keep` gives there, which one process at a time is asked for."""
    if path is None:
        return None
    found = load(path)
    if found is None:
        with _alone(path) as waited:
            found = load(path) if waited else keep()
    return found


@contextlib.contextmanager
def _alone(path: pathlib.Path) -> Iterator[bool]:
    """Keeps other processes out that ask for the same file; gives whether one of them was waited for.

    The lock goes with its process, however that ends. Where there can be none, nobody waits.
    """
    waited, lock = False, pathlib.Path(f"{path}.lock")
    with contextlib.ExitStack() as held:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = held.enter_context(open(lock, "wb"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                waited = True
                _log.info("another process is encoding the same text (it holds %s); waiting for it", lock)
                fcntl.flock(file, fcntl.LOCK_EX)
            held.callback(_remove, lock)  # who still waits for it has what it waits for
        except OSError:  # a folder that cannot be written, a file system without locks
            pass
        yield waited


def _remove(path: pathlib.Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def load(path: pathlib.Path) -> Windows | None:
    """The windows that `save` left at `path`, or None; a file that cannot be read is warned of."""
    try:
        with pa.memory_map(str(path)) as file:
            return Windows(pa.ipc.open_file(file).get_batch(0))
    except FileNotFoundError:
        return None
    except (OSError, pa.ArrowException, ValueError) as error:
        _log.warning("cache %s cannot be read, so the text is encoded again: %s", path, error)
        return None


def save(windows: Windows, path: pathlib.Path) -> None:
    """Writes beside `path`, then renames: a file by that name is whole, whenever the process dies.

    An error of the file system is logged as a warning, for the work can go on without a cache.
    """
    unfinished = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".unfinished", delete=False) as file:
            unfinished = pathlib.Path(file.name)
            with pa.ipc.new_file(file, windows.rows.schema) as writer:
                writer.write_batch(windows.rows)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError as error:
        _log.warning("encoded text is not cached, for %s cannot be written: %s", path.parent, error)
        if unfinished is not None:
            _remove(unfinished)


def joined(parts: Sequence[Windows]) -> Windows:
    """The windows of `parts`, one after the other, in memory."""
    return Windows(pa.Table.from_batches([part.rows for part in parts]).combine_chunks().to_batches()[0])


def save_parts(parts: Iterable[Windows], path: pathlib.Path) -> None:
    """As `save` of what `joined` gives, but with one part in memory at a time: the others lie in files beside `path`.

    Columns are numbers, or lists of them as long as `input_ids`.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, suffix=".unfinished") as folder:
            save(_spooled(parts, pathlib.Path(folder)), path)
    except OSError as error:
        _log.warning("encoded text is not cached, for %s cannot be written: %s", path.parent, error)


def _spooled(parts: Iterable[Windows], folder: pathlib.Path) -> Windows:
    """The windows of `parts` in a file of `folder` for each column, mapped into memory."""
    lengths, columns = [], {}
    with contextlib.ExitStack() as stack:
        for part in parts:
            lengths.append(part.lengths)
            for name in part.rows.schema.names:
                column = part.rows.column(name)
                is_list = isinstance(column, pa.LargeListArray)
                values = (column.values if is_list else column).to_numpy()
                if name not in columns:
                    file = stack.enter_context(open(folder / name, "wb"))
                    columns[name] = (file, values.dtype, is_list)
                values.tofile(columns[name][0])
    offsets, arrays = offsets_of(np.concatenate(lengths)), {}
    for name, (file, dtype, is_list) in columns.items():
        values = pa.array(np.memmap(file.name, dtype, "r"))
        arrays[name] = pa.LargeListArray.from_arrays(offsets, values) if is_list else values
    return Windows(pa.RecordBatch.from_pydict(arrays))
