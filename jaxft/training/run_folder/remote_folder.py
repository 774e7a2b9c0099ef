"""Keeps the folder of a run in an object store: the run works in a local copy, of which a thread uploads what is new.

A store has no renames and no locks. An object is written whole or not at all; a checkpoint, which is many objects,
counts only once its list of files is there, which is uploaded last. Whoever starts a run puts a token into the object
`lock`, and a process that no longer finds its own token there uploads nothing more.
"""

import contextlib
import json
import secrets
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from jaxft.errors import UserError, first_line
from jaxft.io.stores import (
    address_of,
    copy_files,
    errors_name_addresses,
    fetch_folder,
    make_copy_folder,
    open_store,
    store_errors,
)
from jaxft.parallel import processes

INTERVAL = 30.0  # seconds between uploads
STEPS = ("checkpoints", "best")  # the folders that hold a folder for each step
FILE_LIST = "file_list.json"  # of a step, in the store only
LOCAL_ONLY = ("cache", "lock", "wandb", "checkpoints.damaged", "best.damaged")  # not uploaded
RUN_FILES = ("config.json", "versions.json", "summary.json", "model", "eval")  # what opening a run reads


def fetch_run(workdir: Path) -> Path:
    """Returns `workdir` if it is local, else the path of a copy of its settings, model files and best weights."""
    if (address := address_of(workdir)) is None:
        return Path(workdir)
    folder = fetch_folder(address, lambda name: name.partition("/")[0] in RUN_FILES)
    store = _Store(address, folder)
    with store_errors(address):
        store.download_steps("best")
    return folder


@contextlib.contextmanager
def local_folder(workdir: Path) -> Iterator[Path]:
    """Yields the local folder for a run in `workdir`: itself, or a copy that is uploaded during and after the block.

    Raises:
      UserError: the store cannot be reached, holds other files, or another process has started the run meanwhile; or
        several processes run, which need a folder that they share.
    """
    if (address := address_of(workdir)) is None:
        yield Path(workdir)
        return
    if processes.count() > 1:
        raise UserError(
            f"--workdir {address}: several processes write into one folder, which a store is not; name a folder that "
            "all hosts share, such as the bucket mounted as a folder (gcsfuse, s3fs-fuse)"
        )
    store = _Store(address, make_copy_folder(address))
    with store_errors(address):
        store.open()
    stopped = threading.Event()
    thread = threading.Thread(target=store.upload_until, args=(stopped,), daemon=True)
    thread.start()
    is_failing = True
    try:
        with errors_name_addresses():
            yield store.folder
        is_failing = False
    finally:
        processes.log(f"uploading what is new to {address}")
        stopped.set()
        thread.join()
        store.finish(failing=is_failing)


class _Store:
    """A run's folder in an object store and its local copy.

    Args:
      address: the folder's address.
      folder: the local copy.
    """

    def __init__(self, address: str, folder: Path):
        self.address, self.folder = address, folder
        self._files, self._root = open_store(address)
        self._token = secrets.token_hex(8).encode()
        # (time of change, size) by the file's path in the folder; steps have (0, 0).
        self._uploaded: dict[str, tuple[int, int]] = {}
        self._is_failing = False

    def open(self) -> None:
        """Copies the run to the local folder, if there is one, and claims the store's folder for this process."""
        self._files.invalidate_cache()
        is_run = self._files.exists(f"{self._root}/config.json")
        # The lock of a start that ended before its first upload is no file of others.
        if not is_run and set(self._files.find(self._root, maxdepth=2)) - {f"{self._root}/lock"}:
            raise UserError(
                f"--workdir {self.address} holds files but no jaxft run (no config.json); name a new or empty folder"
            )
        # Before anything is copied: a process that still trains there must not change what is copied.
        self._files.pipe_file(f"{self._root}/lock", self._token)
        if is_run:
            processes.log(f"copying {self.address} to this machine")
            names = [path.removeprefix(f"{self._root}/") for path in self._files.find(self._root)]
            skipped = (*STEPS, *LOCAL_ONLY, "tensorboard", "profile")
            copy_files(
                self._files,
                self._root,
                self.folder,
                [name for name in names if name.partition("/")[0] not in skipped],
            )
            for name in STEPS:
                self.download_steps(name)
            self._uploaded = dict(self._local_files())

    def download_steps(self, name: str) -> None:
        """Copies the complete steps of the folder `name`, "checkpoints" or "best"."""
        for path in self._files.glob(f"{self._root}/{name}/*/{FILE_LIST}"):
            step = path.removeprefix(f"{self._root}/").removesuffix(f"/{FILE_LIST}")
            names = json.loads(self._files.cat_file(path))
            try:
                copy_files(self._files, f"{self._root}/{step}", self.folder / step, names)
            except FileNotFoundError:  # another process has removed it meanwhile
                shutil.rmtree(self.folder / step, ignore_errors=True)

    def upload_until(self, stopped: threading.Event) -> None:
        """Uploads what is new at intervals; a failure is printed once, and tried again."""
        while not stopped.wait(INTERVAL):
            try:
                self.upload()
                self._is_failing = False
            except UserError as error:
                print(f"warning: {error}", flush=True)
                return
            except Exception as error:
                if not self._is_failing:
                    print(
                        f"warning: {self.address} cannot be written ({first_line(error)}); the run goes on, its files "
                        f"stay in {self.folder} and are uploaded later",
                        flush=True,
                    )
                self._is_failing = True

    def finish(self, *, failing: bool) -> None:
        """Uploads what is new for the last time.

        Args:
          failing: whether the run ends with an exception, which no other must hide.
        """
        for delay in (1, 5, 0):
            try:
                self.upload()
                return
            except UserError as error:
                problem = str(error)
                break
            except Exception as error:
                problem = f"{self.address} cannot be written: {first_line(error)}"
                time.sleep(delay)
        kept = self.folder.rename(self.folder.with_name(f"kept-{self.folder.name}"))
        message = f"{problem}; the run's files are kept in {kept}"
        if not failing:
            raise UserError(message)
        print(f"warning: {message}", flush=True)

    def upload(self) -> None:
        """Uploads new and changed files, and removes steps that the run has removed.

        Raises:
          UserError: another process has claimed the folder.
        """
        if self._files.cat_file(f"{self._root}/lock") != self._token:
            raise UserError(
                f"--workdir {self.address}: another process trains in it since; this one uploads nothing more"
            )
        # A checkpoint names the best weights of its time, so these are uploaded before it.
        steps = {name: self._local_steps(name) for name in STEPS}
        for name in reversed(STEPS):
            for step in steps[name]:
                if step not in self._uploaded:
                    self._upload_step(step)
        for name, state in list(self._local_files()):
            if self._uploaded.get(name) != state and name.partition("/")[0] not in STEPS:
                with contextlib.suppress(FileNotFoundError):  # it was removed meanwhile
                    self._files.put_file(str(self.folder / name), f"{self._root}/{name}")
                    self._uploaded[name] = state
        for name in STEPS:
            self._remove_old_steps(name, set(steps[name]))

    def _local_steps(self, name: str) -> list[str]:
        """Returns the complete steps of a local folder, "checkpoints/12"; an unfinished one has another name."""
        return [f"{name}/{path.name}" for path in (self.folder / name).glob("*") if path.name.isdigit()]

    def _local_files(self) -> Iterator[tuple[str, tuple[int, int]]]:
        """Yields (path, state) of each file to upload; for a step's folder also its path, with an empty state."""
        for path in self.folder.rglob("*"):
            name = path.relative_to(self.folder).as_posix()
            top, _, rest = name.partition("/")
            if top in STEPS and rest.isdigit():
                yield name, (0, 0)
            elif top not in LOCAL_ONLY and not name.endswith(".tmp"):
                with contextlib.suppress(FileNotFoundError):
                    if path.is_file():
                        stat = path.stat()
                        yield name, (stat.st_mtime_ns, stat.st_size)

    def _upload_step(self, step: str) -> None:
        """Uploads the folder of a step, and its list of files last. Gives up if the run removes it meanwhile."""
        folder = self.folder / step
        names = _file_names(folder)
        try:
            for name in names:
                self._files.put_file(str(folder / name), f"{self._root}/{step}/{name}")
        except FileNotFoundError:
            return  # what was uploaded goes with the old steps
        if names and _file_names(folder) == names:
            self._files.pipe_file(f"{self._root}/{step}/{FILE_LIST}", json.dumps(names).encode())
            self._uploaded[step] = (0, 0)

    def _remove_old_steps(self, name: str, kept: set[str]) -> None:
        """Removes the steps that this process knows and that are not `kept`, and steps that were never complete.

        A complete step that it does not know is another process's. Lists of files go first, so that none is ever half
        there.
        """
        self._files.invalidate_cache()
        if not self._files.exists(f"{self._root}/{name}"):
            return
        for path in self._files.ls(f"{self._root}/{name}", detail=False):
            step = path.rstrip("/").removeprefix(f"{self._root}/")
            if step in kept or step == name:
                continue
            if self._files.exists(f"{path}/{FILE_LIST}"):
                if step not in self._uploaded:
                    continue
                self._files.rm_file(f"{path}/{FILE_LIST}")
            self._files.rm(path, recursive=True)


def _file_names(folder: Path) -> list[str]:
    """Returns the paths of all files in a folder, sorted."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
