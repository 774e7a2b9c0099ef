"""Copies files of object stores (gs://, s3:// and all others that fsspec knows) to this machine.

All code works on local files. A copy lies in a temporary folder, which is removed when the process ends.
"""

import atexit
import contextlib
import functools
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jaxft.errors import UserError, first_line

_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]+):/{1,2}([^/].*)")
_IN_SOURCE = re.compile(r"(?:(?<=[;=])|^)[a-z][a-z0-9+.-]+://[^;]*")
_WILDCARD = re.compile(r"[*?]")

# Schemes of addresses that are not read, and the packages by which fsspec reads object stores.
WEB = ("http", "https", "ftp")
PACKAGES = {"gs": "gcsfs", "gcs": "gcsfs", "s3": "s3fs", "az": "adlfs", "abfs": "adlfs"}

# The addresses of copies, by their local paths.
_COPIES: dict[str, str] = {}


def address_of(path: str | Path) -> str | None:
    """Returns the address of a path in an object store, or None for a local path.

    `Path("gs://bucket/run")` has lost a slash, which comes back: gs://bucket/run.
    """
    match = _ADDRESS.fullmatch(str(path))
    return f"{match[1]}://{match[2].rstrip('/')}" if match else None


def refuse_address(path: str | Path | None, name: str, advice: str) -> None:
    """Raises `UserError` if `path` is in an object store, for what is written to local files only.

    Args:
      path: a path that a user gave.
      name: the flag or setting, for the message.
      advice: what to do instead.
    """
    if path is not None and (address := address_of(path)):
        raise UserError(f"{name} {address}: an object store, where a local path was expected; {advice}")


def address_of_copy(path: Path) -> str | None:
    """Returns the address of which a local folder is the copy, or None."""
    return _COPIES.get(str(path))


def with_addresses(text: str) -> str:
    """Returns a message in which paths of copies are replaced by the addresses that users know."""
    for local, address in _COPIES.items():
        text = text.replace(local, address)
    return text


@contextlib.contextmanager
def errors_name_addresses() -> Iterator[None]:
    """Replaces paths of copies by the addresses that users know, in the message of an exception in the block."""
    try:
        yield
    except Exception as error:
        if error.args and isinstance(error.args[0], str):
            error.args = (with_addresses(error.args[0]), *error.args[1:])
        raise


def make_copy_folder(address: str) -> Path:
    """Makes the temporary folder for the copy of `address`. It is removed when the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="jaxft-"))
    _COPIES[str(folder)] = address
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@contextlib.contextmanager
def store_errors(address: str) -> Iterator[None]:
    """Turns what a store's library raises in the block into a `UserError` about `address`."""
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{address}: nothing is there; check the bucket and the path") from None
    except Exception as error:  # each store's library has its own types
        reason = first_line(error) or type(error).__name__
        raise UserError(
            f"{address}: the store cannot be reached or refuses: {reason}; check the address and the credentials of "
            "this machine"
        ) from None


def open_store(address: str) -> tuple[Any, str]:
    """Returns (file system, path) of an address.

    Raises:
      UserError: the scheme is unknown or that of web pages, or its library is not installed.
    """
    scheme = address.partition(":")[0]
    if scheme in WEB:
        raise UserError(
            f"{address}: an address on the web, which jaxft does not read; name a local path, an object store "
            "(gs://, s3://) or what the Hugging Face hub has"
        )
    import fsspec  # takes a while to import

    try:
        file_system, path = fsspec.core.url_to_fs(address)
    except ImportError as error:
        package = PACKAGES.get(scheme)
        needs = f"{package}: pip install {package}" if package else f"a package: {first_line(error)}"
        raise UserError(f"{address}: {scheme}:// needs {needs}") from None
    except ValueError:
        raise UserError(
            f"{address}: unknown scheme {scheme!r}; expected gs, s3 or another of fsspec's"
        ) from None
    except Exception as error:  # such as missing credentials
        raise UserError(f"{address}: the store cannot be opened: {first_line(error)}") from None
    return file_system, path.rstrip("/")


def has_file(folder: str, name: str) -> bool:
    """Returns whether a folder, which is local or in a store, has a file. Raises `UserError` if a store cannot say."""
    if (address := address_of(folder)) is None:
        return (Path(folder).expanduser() / name).is_file()
    file_system, root = open_store(address)
    with store_errors(address):
        file_system.invalidate_cache()
        return bool(file_system.isfile(f"{root}/{name}"))


def fetch_folder(address: str, accepts: Callable[[str], bool]) -> Path:
    """Copies a folder of a run, a model or an adapter, and returns the copy's path.

    Args:
      address: the folder's address.
      accepts: whether to copy a file, by its path in the folder.

    Raises:
      UserError: the folder has no config.json and no adapter_config.json, or the store cannot be reached.
    """
    file_system, root = open_store(address)
    with store_errors(address):
        file_system.invalidate_cache()
        if not any(file_system.exists(f"{root}/{name}") for name in ("config.json", "adapter_config.json")):
            raise UserError(
                f"{address}: neither config.json nor adapter_config.json is there; name the folder of a run, a model "
                "or an adapter"
            )
        folder = make_copy_folder(address)
        names = [path.removeprefix(f"{root}/") for path in file_system.find(root)]
        copy_files(file_system, root, folder, filter(accepts, names))
    return folder


def copy_files(file_system: Any, root: str, folder: Path, names: Iterator[str] | list[str]) -> None:
    """Copies the files `names` below `root` of a store into the local `folder`, under the same names."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        file_system.get_file(f"{root}/{name}", str(folder / name))


def fetch_source(source: str) -> str:
    """Copies the files of a data source, and returns the source with the copies' paths in place of addresses.

    Patterns ("gs://bucket/part-*.txt"), filters of records ("?fold=1"), shards ("#2/4") and lists of several tasks'
    sources stay as they are. A source without addresses is returned unchanged.

    Raises:
      UserError: nothing is there, or the store cannot be reached.
    """
    return _IN_SOURCE.sub(lambda match: _fetch_files(match[0]), source)


def _fetch_files(address: str) -> str:
    """Copies the files of one address and returns the local path, pattern or folder that means them."""
    address, shard, number = address.partition("#")
    address, question, record_filter = (
        address.partition("?") if "=" in address.rpartition("?")[2] else (address, "", "")
    )
    ending = f"{question}{record_filter}{shard}{number}"
    file_system, path = open_store(address)
    with store_errors(address):
        file_system.invalidate_cache()
        is_pattern = bool(_WILDCARD.search(path))
        is_folder = not is_pattern and file_system.isdir(path)
        paths = file_system.glob(path) if is_pattern else file_system.find(path) if is_folder else [path]
        paths = [name for name in paths if is_folder or not file_system.isdir(name)]
        if not paths:
            raise UserError(f"{address}: no file is there")
        if is_folder:
            root, rest = path, ""
        else:
            fixed = path[: match.start()] if (match := _WILDCARD.search(path)) else path
            root = fixed.rpartition("/")[0]
            rest = path[len(root) + 1 :]
        versions = tuple((name[len(root) + 1 :], file_system.ukey(name)) for name in sorted(paths))
        folder = _copy_versions(address.removesuffix(rest).rstrip("/"), root, versions)
    return os.path.join(folder, rest) + ending if rest else f"{folder}{ending}"


@functools.cache
def _copy_versions(address: str, root: str, versions: tuple[tuple[str, str], ...]) -> Path:
    """Copies files of a store's folder into a new local folder, once in a process for each of their versions.

    Args:
      address: the folder's address.
      root: its path in the store.
      versions: (name, version) of each file.
    """
    folder = make_copy_folder(address)
    copy_files(open_store(address)[0], root, folder, [name for name, _ in versions])
    return folder
