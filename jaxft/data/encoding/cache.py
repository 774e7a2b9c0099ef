"""Caches encoded windows in a file that is either complete or absent. Processes that share the file share the work."""

import contextlib
import functools
import hashlib
import logging
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pyarrow as pa

from jaxft.data.encoding.windows import Windows, add_prompt, join_windows
from jaxft.data.ragged import offsets_from_lengths
from jaxft.io.locks import lock

CHUNK_CHARACTERS = 1 << 21  # of text that one chunk holds: some seconds of work in bounded memory

# Maps each chunk (a range of items) to a function that encodes the items and yields tables of windows, in order.
ChunkEncoders = dict[range, Callable[[], Iterable[Windows]]]

_log = logging.getLogger(__name__)
_WORK = "encodes the same text"
_CHECKSUM = b"jaxft.checksum"  # the key of the checksum in a file's schema


def load_or_encode(
    path: pathlib.Path | None, make_encoders: Callable[[], ChunkEncoders], prompt_length: int = 0
) -> Windows:
    """Returns the windows of all chunks, in order; reads them from the file `path` if it exists.

    Each process that shares the file encodes the chunks that no other process has taken. One process joins them into
    the file, and all processes map it. If the file cannot be written, each process encodes everything itself. Chunks
    that a killed process finished are not encoded again.

    Args:
      path: the file that keeps the windows; None for no cache.
      make_encoders: returns the encoder of each chunk. It is called only if the file is missing or damaged. If chunks
        can be written, only one table is in memory at a time.
      prompt_length: the number of slots to add before each window; see `add_prompt`.
    """
    if prompt_length and path is not None:
        path = path.with_stem(f"{path.stem}-{prompt_length}")
    windows = None if path is None else load_windows(path)
    if windows is not None:
        return windows
    encoders = make_encoders()
    if prompt_length:
        encoders = {
            items: functools.partial(_encode_with_prompt, encode, prompt_length)
            for items, encode in encoders.items()
        }
    if path is not None:
        windows = _encode_into_file(path, encoders)
    if windows is not None:
        return windows
    return join_windows([table for encode in encoders.values() for table in encode()])


def _encode_with_prompt(encode: Callable[[], Iterable[Windows]], prompt_length: int) -> Iterator[Windows]:
    """Yields the tables of an encoder, with slots for a prompt."""
    return (add_prompt(table, prompt_length) for table in encode())


def split_by_size(sizes: Iterable[int], target_size: int) -> list[range]:
    """Splits items into consecutive ranges with a total size of about `target_size` each. Returns at least one."""
    ranges, start, total, end = [], 0, 0, 0
    for end, size in enumerate(sizes, 1):
        total += size
        if total >= target_size:
            ranges.append(range(start, end))
            start, total = end, 0
    if not ranges or start != end:
        ranges.append(range(start, end))
    return ranges


def _encode_into_file(path: pathlib.Path, encoders: ChunkEncoders) -> Windows | None:
    """Makes the file, together with other processes, and loads it; returns None if it cannot be written."""
    if len(encoders) == 1:
        [encode] = encoders.values()
        with lock(path, _WORK) as (_, has_waited):
            windows = load_windows(path) if has_waited else None
            if windows is None:
                save_joined_windows(encode(), path)
                windows = load_windows(path)
        return windows
    folder = path.with_suffix(".parts")
    # A chunk's file is named after its range, so it cannot be confused with a chunk that another process cut elsewhere.
    files = {folder / f"{items.start}-{items.stop}.arrow": encode for items, encode in encoders.items()}
    _encode_free_chunks(path, files)
    with lock(path, _WORK):
        windows = load_windows(path)
        if windows is None:
            save_joined_windows(_load_chunks(files), path)
            windows = load_windows(path)
        shutil.rmtree(folder, ignore_errors=True)  # also frees space on a full disk
    return windows


def _encode_free_chunks(
    path: pathlib.Path, files: dict[pathlib.Path, Callable[[], Iterable[Windows]]]
) -> None:
    """Encodes each chunk that no other process encodes or has encoded into its file."""
    for file, encode in files.items():
        if file.exists():
            continue
        with lock(file, _WORK, wait=False) as (is_held, _):
            if path.exists():  # other processes were quicker
                break
            if is_held and not file.exists():
                save_joined_windows(encode(), file)
                if not file.exists():  # the disk is full: do not try further chunks
                    break


def _load_chunks(files: dict[pathlib.Path, Callable[[], Iterable[Windows]]]) -> Iterator[Windows]:
    """Yields the windows of each chunk once its encoding process is done. Encodes chunks that have no file."""
    for file, encode in files.items():
        with lock(file, _WORK):
            windows = load_windows(file)
        yield from encode() if windows is None else [windows]


def _remove(path: pathlib.Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def load_windows(path: pathlib.Path) -> Windows | None:
    """Maps a file of `save_windows`. Returns None if there is none, or, with a warning, if it is damaged.

    The content is compared with the checksum in the file. This costs a run nothing, because the checksum is made from
    `Windows.fingerprint`, which the run needs anyway. A damaged file is removed, so that it is made again.
    """
    try:
        with pa.memory_map(str(path)) as file:
            batch = pa.ipc.open_file(file).get_batch(0)
        batch.validate()
        checksum = (batch.schema.metadata or {}).get(_CHECKSUM)
        if checksum is None:  # an earlier jaxft wrote it
            _remove(path)
            return None
        windows = Windows(batch.replace_schema_metadata(None))
        if checksum == _compute_checksum(windows):
            return windows
        problem = "its content differs from its checksum"
    except FileNotFoundError:
        return None
    except (OSError, pa.ArrowException, ValueError, KeyError, AttributeError) as error:
        problem = str(error).partition("\n")[0]
    _log.warning("the cache %s is damaged, so the text is encoded again: %s", path, problem)
    _remove(path)
    return None


def _compute_checksum(windows: Windows) -> bytes:
    """Returns a hash of the names and types of the columns, of their content, and of where each list begins."""
    batch = windows.record_batch
    digest = hashlib.sha256(f"{batch.schema.to_string()}\n{windows.fingerprint}".encode())
    for column in batch.columns:
        if pa.types.is_large_list(column.type):
            digest.update(np.ascontiguousarray(column.offsets.to_numpy()).data)
    return digest.hexdigest().encode()


def save_windows(windows: Windows, path: pathlib.Path) -> None:
    """Saves windows in the file `path`, which is never incomplete: a file next to it is written and then renamed.

    The file contains a checksum. An error of the file system is logged as a warning, because the run can continue
    without a cache.
    """
    unfinished = None
    batch = windows.record_batch.replace_schema_metadata({_CHECKSUM: _compute_checksum(windows)})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".unfinished", delete=False) as file:
            unfinished = pathlib.Path(file.name)
            with pa.ipc.new_file(file, batch.schema) as writer:
                writer.write_batch(batch)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except (OSError, pa.ArrowException) as error:
        _warn_of_no_cache(path.parent, getattr(error, "strerror", None) or str(error))
        if unfinished is not None:
            _remove(unfinished)


@functools.cache  # each data set would warn again
def _warn_of_no_cache(folder: pathlib.Path, reason: str) -> None:
    _log.warning(
        "encoded text is not cached, for %s cannot be written (%s); set config.data.cache_dir to another folder, or to "
        "off",
        folder,
        reason,
    )


def save_joined_windows(tables: Iterable[Windows], path: pathlib.Path) -> None:
    """Saves the windows of several tables, in order, in one file. Only one table is in memory at a time."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, suffix=".unfinished") as folder:
            save_windows(_join_on_disk(tables, pathlib.Path(folder)), path)
    except (OSError, pa.ArrowException) as error:
        _warn_of_no_cache(path.parent, getattr(error, "strerror", None) or str(error))


def _join_on_disk(tables: Iterable[Windows], folder: pathlib.Path) -> Windows:
    """Joins tables into one file for each column, in `folder`, and maps these files."""
    lengths, files, types = [], {}, {}
    with contextlib.ExitStack() as stack:
        for windows in tables:
            lengths.append(windows.lengths)
            for name in windows.record_batch.schema.names:
                values = windows.column(name)
                if name not in files:
                    files[name] = stack.enter_context(open(folder / name, "wb"))
                    types[name] = windows.record_batch.schema.field(name).type, values.dtype
                values.tofile(files[name])
    offsets, columns = offsets_from_lengths(np.concatenate(lengths)), {}
    for name, (arrow_type, dtype) in types.items():
        file = folder / name
        values = pa.array(np.memmap(file, dtype, "r") if file.stat().st_size else np.empty(0, dtype))
        if pa.types.is_large_list(arrow_type):  # a list as long as `input_ids`
            values = pa.LargeListArray.from_arrays(offsets, values)
        elif pa.types.is_fixed_size_list(arrow_type):
            values = pa.FixedSizeListArray.from_arrays(values, arrow_type.list_size)
        columns[name] = values
    return Windows(pa.RecordBatch.from_pydict(columns))
