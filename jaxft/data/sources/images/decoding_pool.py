"""Computes arrays of images in worker processes, or in the caller's thread.

A worker is a process that runs this module. It imports neither jax nor the program that uses it, so it starts quickly,
and a script needs no `if __name__ == "__main__"`. It ends when its input ends, so it never outlives its parent, however
that ends. Ctrl-C does not reach it.
"""

import concurrent.futures
import contextlib
import functools
import itertools
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import traceback
import weakref
from collections.abc import Callable, Sequence
from typing import IO, Any, NamedTuple, TypeAlias

import numpy as np

from jaxft.data.sources.images.augmentation import DrawKey
from jaxft.data.sources.images.decoding import BrokenImage, ImageContent
from jaxft.data.sources.images.preparation import Operation, operation_from_json
from jaxft.errors import UserError

MOST_WORKERS = 16  # by default
Message: TypeAlias = dict[str, Any]  # the header of a message, in JSON

_READY = b"ready\n"
_END_SECONDS = 5.0  # for a worker to end, before it is killed


class ImageRequest(NamedTuple):
    """An image that an operation is applied to, see `Operation.prepare`, or the error that is its result."""

    image: ImageContent | BrokenImage
    place: str
    view: int = 0
    key: DrawKey | None = None


Finish: TypeAlias = Callable[[int, np.ndarray], None]


def _finish_nothing(number: int, result: np.ndarray) -> None:
    """Does nothing."""


def _finish(finish: Finish, number: int, result: np.ndarray | BrokenImage) -> np.ndarray | BrokenImage:
    if not isinstance(result, BrokenImage):
        finish(number, result)
    return result


class DecodingPool:
    """Applies operations to images in worker processes. It may be used from several threads.

    Workers start when they are first needed, and end when the pool is deleted.
    """

    def __init__(self, workers: int):
        """Makes a pool of `workers` processes; with 0, operations are applied in the caller's thread."""
        self.workers = workers
        self._lock = threading.Lock()
        self._running: _Running | None = None

    def prepare(
        self, operation: Operation, requests: Sequence[ImageRequest], finish: Finish = _finish_nothing
    ) -> list[np.ndarray | BrokenImage]:
        """Returns the results of an operation for images, in order, or their errors.

        If a worker is killed, the image that it was at gets an error, and another worker takes its place.

        Args:
          operation: the operation.
          requests: the images.
          finish: is called with the number and the result of each request that succeeded, in several threads at once:
            those that wait for the workers.

        Raises:
          UserError: workers cannot be started.
        """
        if not self.workers:
            compute = functools.partial(_apply, operation)
            return [_finish(finish, number, compute(request)) for number, request in enumerate(requests)]
        with self._lock:
            if self._running is None:
                self._running = _Running(self.workers)
                weakref.finalize(self, self._running.stop)
            running = self._running
        compute = functools.partial(running.ask, operation.to_json())
        return list(
            running.threads.map(
                lambda number, request: _finish(finish, number, compute(request)), itertools.count(), requests
            )
        )


def default_workers() -> int:
    """Returns the number of workers for this machine: none on one or two cores, else a core each but one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 0 if cores <= 2 else min(cores - 1, MOST_WORKERS)


def _apply(operation: Operation, request: ImageRequest) -> np.ndarray | BrokenImage:
    if isinstance(request.image, BrokenImage):
        return request.image
    try:
        return operation.prepare(request.image, request.place, view=request.view, key=request.key)
    except BrokenImage as error:
        return error


class _Running:
    """The workers of a pool: a thread waits for the answer of each."""

    def __init__(self, workers: int):
        self.threads = concurrent.futures.ThreadPoolExecutor(workers, thread_name_prefix="decoding")
        self._all = [_Worker() for _ in range(workers)]
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        for worker in self._all:
            self._idle.put(worker)

    def ask(self, operation: str, request: ImageRequest) -> np.ndarray | BrokenImage:
        """Returns a worker's answer to a request."""
        worker = self._idle.get()
        try:
            return worker.ask(operation, request)
        except (OSError, EOFError):
            code = worker.end()
            reason = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
            return BrokenImage(
                f"{request.place}: the process that decoded this image {reason}; check the file and the free memory"
            )
        finally:
            self._idle.put(worker)

    def stop(self) -> None:
        """Ends the workers; those that are at an image finish it."""
        self.threads.shutdown(cancel_futures=True)
        for worker in self._all:
            worker.close_input()
        for worker in self._all:
            worker.end()


class _Worker:
    """A process that runs `main`. It starts with the first request, and with the first one after it has ended."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def _start(self) -> None:
        """Starts the process. Raises `UserError` if it cannot run."""
        path = os.pathsep.join(folder or os.getcwd() for folder in sys.path)
        try:
            self._process = subprocess.Popen(
                # With -P the current folder, of which the user's program may know nothing, is not searched for modules.
                [sys.executable, "-P", "-m", __name__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
                process_group=0,
            )
        except OSError as error:
            raise UserError(
                f"a process that decodes images cannot be started ({error.strerror}); set config.data.workers=0"
            ) from None
        assert self._process.stdin is not None and self._process.stdout is not None  # because of PIPE
        self._input: IO[bytes] = self._process.stdin
        self._output: IO[bytes] = self._process.stdout
        if self._output.readline() != _READY:
            raise UserError(
                f"a process that decodes images ended as it started (code {self.end()}), see above; set "
                "config.data.workers=0"
            )

    def ask(self, operation: str, request: ImageRequest) -> np.ndarray | BrokenImage:
        """Sends a request and waits for its answer. Raises OSError or EOFError if the process ends meanwhile."""
        image, place, view, key = request
        if isinstance(image, BrokenImage):
            return image
        if self._process is None:
            self._start()
        header = {"operation": operation, "place": place, "view": view, "key": key}
        if isinstance(image, str):
            _write(self._input, header | {"path": image}, b"")
        elif isinstance(image, np.ndarray):
            header |= {"shape": image.shape, "dtype": image.dtype.str}
            _write(self._input, header, np.ascontiguousarray(image).data)
        else:
            _write(self._input, header, image)
        answer, content = _read(self._output)
        if "bug" in answer:
            raise RuntimeError(f"{place}: a bug in a process that decodes images:\n{answer['bug']}")
        if "error" in answer:
            return BrokenImage(answer["error"])
        return np.frombuffer(content, np.uint8).reshape(answer["shape"])

    def close_input(self) -> None:
        """Tells the process to end, if it runs."""
        if self._process is not None:
            with contextlib.suppress(OSError):  # it has ended, with a request that is not sent yet
                self._input.close()

    def end(self) -> int:
        """Ends the process, if it runs; returns its exit code."""
        if self._process is None:
            return 0
        self.close_input()
        process, self._process = self._process, None
        try:
            code = process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        self._output.close()
        return code


def _write(stream: IO[bytes], header: Message, content: bytes | memoryview) -> None:
    """Writes a message: a line of JSON, and as many bytes as it says."""
    size = memoryview(content).nbytes
    stream.write(json.dumps(header | {"size": size}).encode() + b"\n")
    stream.write(content)
    stream.flush()


def _read(stream: IO[bytes]) -> tuple[Message, bytes]:
    """Reads a message. Raises EOFError where the stream ends."""
    line = stream.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    header = json.loads(line)
    content = stream.read(header["size"])
    if len(content) < header["size"]:
        raise EOFError
    return header, content


_read_operation = functools.lru_cache(operation_from_json)


def _answer(header: Message, content: bytes) -> tuple[Message, bytes | memoryview]:
    """Returns the answer to a request."""
    image: ImageContent = content
    if "path" in header:
        image = str(header["path"])
    key = None if header["key"] is None else DrawKey(*header["key"])
    try:
        if "shape" in header:
            image = np.frombuffer(content, header["dtype"]).reshape(header["shape"])
        request = ImageRequest(image, str(header["place"]), int(header["view"]), key)
        result = _apply(_read_operation(str(header["operation"])), request)
    except Exception:  # a bug of any kind: `_Worker.ask` raises it with its trace and the image's place
        return {"bug": traceback.format_exc()}, b""
    if isinstance(result, BrokenImage):
        return {"error": str(result)}, b""
    return {"shape": result.shape}, np.ascontiguousarray(result).data


def main() -> None:
    """Answers requests from stdin until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    answers.write(_READY)
    answers.flush()
    try:
        while True:
            _write(answers, *_answer(*_read(requests)))
    except (EOFError, BrokenPipeError):
        os._exit(0)  # stdout's buffer may be of a pipe that is gone


if __name__ == "__main__":
    main()
