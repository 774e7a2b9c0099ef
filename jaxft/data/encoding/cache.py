"""Keeps encoded windows in a file that is whole or absent, which processes that share it make together."""

import contextlib
import fcntl
import logging
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pyarrow as pa

from jaxft.data.encoding.windows import Windows, join_windows
from jaxft.data.ragged import offsets_from_lengths

# What encodes some items, those of a range of numbers, and gives their windows in pieces.
ChunkEncoders = dict[range, Callable[[], Iterable[Windows]]]

_log = logging.getLogger(__name__)


def load_or_encode(path: pathlib.Path | None, parts: Callable[[], ChunkEncoders]) -> Windows:
    """The windows of all parts, one after the other, kept in the file `path` if there is to be one.

    parts: asked for where they are not there yet; one piece is in memory at a time where they can be written.

    Of several processes that share the file each encodes the parts that no other has taken. One joins them, and all
    map what it left; where it could leave nothing, each encodes all for itself. Parts that a killed process left are
    not encoded again.
    """
    found = None if path is None else load_windows(path)
    if found is not None:
        return found
    jobs = parts()
    if path is not None:
        found = _made_together(path, jobs)
    return join_windows([piece for job in jobs.values() for piece in job()]) if found is None else found


def split_by_size(sizes: Iterable[int], size: int) -> list[range]:
    """Ranges of neighbouring items whose sizes add up to about `size`; at least one."""
    found, first, held, end = [], 0, 0, 0
    for end, one in enumerate(sizes, 1):
        held += one
        if held >= size:
            found.append(range(first, end))
            first, held = end, 0
    return found if found and first == end else [*found, range(first, end)]


def _made_together(path: pathlib.Path, jobs: ChunkEncoders) -> Windows | None:
    """What is at `path` after this process, others, or several have made it; None where it can't be written."""
    if len(jobs) == 1:
        [job] = jobs.values()
        with _alone(path) as (_, waited):
            found = load_windows(path) if waited else None
            if found is None:
                save_joined_windows(job(), path)
                found = load_windows(path)
        return found
    folder = path.with_suffix(".parts")
    # A part's name has its bounds, so that those of others, cut elsewhere, are not taken for it.
    files = {folder / f"{some.start}-{some.stop}.arrow": job for some, job in jobs.items()}
    for file, job in files.items():
        if file.exists():
            continue
        with _alone(file, wait=False) as (mine, _):
            if path.exists():  # others have been quicker
                break
            if mine and not file.exists():
                save_joined_windows(job(), file)
                if not file.exists():  # the disk is full: no more of them
                    break

    def pieces() -> Iterator[Windows]:
        for file, job in files.items():
            with _alone(file):  # who has it is encoding it
                found = load_windows(file)
            yield from job() if found is None else [found]

    with _alone(path):
        found = load_windows(path)
        if found is None:
            save_joined_windows(pieces(), path)
            found = load_windows(path)
        shutil.rmtree(folder, ignore_errors=True)  # which on a full disk are in the way
    return found


@contextlib.contextmanager
def _alone(path: pathlib.Path, wait: bool = True) -> Iterator[tuple[bool, bool]]:
    """Keeps other processes out that ask for the same file; gives whether that is so, and whether one was waited for.

    The lock goes with its process, however that ends. Where there can be none, nobody waits.
    """
    mine, waited, lock = True, False, pathlib.Path(f"{path}.lock")
    with contextlib.ExitStack() as held:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = held.enter_context(open(lock, "wb"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if wait:
                    _log.info("another process is encoding the same text (it holds %s); waiting for it", lock)
                    fcntl.flock(file, fcntl.LOCK_EX)
                mine, waited = wait, wait
            if mine:
                held.callback(_remove, lock)  # who still waits for it has what it waits for
        except OSError:  # a folder that cannot be written, a file system without locks
            pass
        yield mine, waited


def _remove(path: pathlib.Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def load_windows(path: pathlib.Path) -> Windows | None:
    """The windows that `save` left at `path`, or None; a file that cannot be read is warned of."""
    try:
        with pa.memory_map(str(path)) as file:
            return Windows(pa.ipc.open_file(file).get_batch(0))
    except FileNotFoundError:
        return None
    except (OSError, pa.ArrowException, ValueError) as error:
        _log.warning("cache %s cannot be read, so the text is encoded again: %s", path, error)
        return None


def save_windows(windows: Windows, path: pathlib.Path) -> None:
    """Writes beside `path`, then renames: a file by that name is whole, whenever the process dies.

    An error of the file system is logged as a warning, for the work can go on without a cache.
    """
    unfinished = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".unfinished", delete=False) as file:
            unfinished = pathlib.Path(file.name)
            with pa.ipc.new_file(file, windows.record_batch.schema) as writer:
                writer.write_batch(windows.record_batch)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError as error:
        _log.warning("encoded text is not cached, for %s cannot be written: %s", path.parent, error)
        if unfinished is not None:
            _remove(unfinished)


def save_joined_windows(parts: Iterable[Windows], path: pathlib.Path) -> None:
    """As `save` of what `joined` gives, but with one part in memory at a time; others lie in files beside it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, suffix=".unfinished") as folder:
            save_windows(_spooled(parts, pathlib.Path(folder)), path)
    except OSError as error:
        _log.warning("encoded text is not cached, for %s cannot be written: %s", path.parent, error)


def _spooled(parts: Iterable[Windows], folder: pathlib.Path) -> Windows:
    """The windows of `parts` in a file of `folder` for each column, mapped into memory."""
    lengths, files, kinds = [], {}, {}
    with contextlib.ExitStack() as stack:
        for part in parts:
            lengths.append(part.lengths)
            for name in part.record_batch.schema.names:
                values = part.column(name)
                if name not in files:
                    files[name] = stack.enter_context(open(folder / name, "wb"))
                    kinds[name] = part.record_batch.schema.field(name).type, values.dtype
                values.tofile(files[name])
    offsets, arrays = offsets_from_lengths(np.concatenate(lengths)), {}
    for name, (kind, dtype) in kinds.items():
        file = folder / name
        values = pa.array(np.memmap(file, dtype, "r") if file.stat().st_size else np.empty(0, dtype))
        if pa.types.is_large_list(kind):  # as long as `input_ids`
            values = pa.LargeListArray.from_arrays(offsets, values)
        elif pa.types.is_fixed_size_list(kind):
            values = pa.FixedSizeListArray.from_arrays(values, kind.list_size)
        arrays[name] = values
    return Windows(pa.RecordBatch.from_pydict(arrays))
