"""Worker processes compute what the caller's thread would, name the image of an error, and never outlive their use."""

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from jaxft.data.sources.images.augmentation import Augmentation, DrawKey
from jaxft.data.sources.images.decoding import BrokenImage
from jaxft.data.sources.images.decoding_pool import DecodingPool, ImageRequest, default_workers
from jaxft.data.sources.images.preparation import Hashing, Preparation, Shrinking, operation_from_json
from jaxft.data.sources.images.processors import ImageProcessor
from jaxft.errors import UserError
from tests.conftest import REPOSITORY
from tests.data.sources.images.conftest import make_pixels, save

PROCESSOR = ImageProcessor.from_hf({"image_processor_type": "ViTImageProcessor", "size": 12})
EVERYTHING = Augmentation(0.2, 4 / 3, 0.5, 0.4, 0.4, 0.4, 0.1, 2, 9, 0.5)
OPERATIONS = [
    Preparation(PROCESSOR, EVERYTHING),
    Preparation(PROCESSOR, EVERYTHING, kept_edge=9),
    Preparation(PROCESSOR, views="crops", max_pixels=10_000),
    Shrinking(9),
    Hashing(),
]


@pytest.fixture
def requests(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(save(make_pixels(40, 30), "JPEG"))
    (tmp_path / "caf\udce9.jpg").write_bytes(save(make_pixels(20, 30), "JPEG"))  # a name that is not UTF-8
    images = [str(tmp_path / "photo.jpg"), save(make_pixels(30, 50)), memoryview(save(make_pixels(9, 8))),
              make_pixels(25, 31)[:, ::-1], make_pixels(7, 70)[..., 0], b"broken", str(tmp_path / "none.png"),
              str(tmp_path / "caf\udce9.jpg")]  # fmt: skip
    return [
        ImageRequest(image, f"photo {number}", number % 10, DrawKey(3, 1, number))
        for number, image in enumerate(images)
    ]


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: type(operation).__name__)
def test_workers_compute_what_this_process_computes(operation, requests, workers):
    assert operation_from_json(operation.to_json()) == operation
    alone, shared = DecodingPool(0).prepare(operation, requests), workers.prepare(operation, requests)
    for number, (expected, result) in enumerate(zip(alone, shared, strict=True)):
        if isinstance(expected, BrokenImage):
            assert (
                number in (5, 6)
                and str(result) == str(expected)
                and str(expected).startswith(f"photo {number}: ")
            )
        else:
            np.testing.assert_array_equal(result, expected)
    assert sum(isinstance(result, BrokenImage) for result in shared) == 2


def test_a_killed_worker_is_replaced_and_its_image_is_named(requests):
    with_workers = DecodingPool(1)
    before = with_workers.prepare(Hashing(), requests)
    [worker] = with_workers._running._all
    os.kill(worker._process.pid, signal.SIGKILL)
    killed, *others = with_workers.prepare(Hashing(), requests)
    assert str(killed) == (
        "photo 0: the process that decoded this image was killed by signal 9; check the file and the free memory"
    )
    for result, expected in zip(others[:4], before[1:5], strict=True):
        np.testing.assert_array_equal(result, expected)


def test_a_bug_is_no_broken_image(workers):
    request = ImageRequest(make_pixels(), "photo", 0, None)  # images of training need a key
    with pytest.raises(
        RuntimeError, match="(?s)photo: a bug in a process that decodes.*images of training have keys"
    ):
        workers.prepare(OPERATIONS[0], [request])
    [result] = workers.prepare(Hashing(), [request])
    assert len(result) == 33


def test_several_threads_share_workers(requests, workers):
    expected = DecodingPool(0).prepare(OPERATIONS[0], requests[:5] * 4)
    results = {}
    threads = [
        threading.Thread(
            target=lambda name=name: results.update({name: workers.prepare(OPERATIONS[0], requests[:5] * 4)})
        )
        for name in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results.values():
        for array, expected_array in zip(result, expected, strict=True):
            np.testing.assert_array_equal(array, expected_array)


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] != "Z"


def test_no_worker_outlives_its_pool(requests):
    pool = DecodingPool(1)
    pool.prepare(Hashing(), requests)
    [worker] = pool._running._all
    pid = worker._process.pid
    del worker
    del pool
    with pytest.raises(ProcessLookupError):  # it is not even a zombie
        os.kill(pid, 0)


SCRIPT = """
import signal, time
from jaxft.data.sources.images.decoding_pool import DecodingPool, ImageRequest
from jaxft.data.sources.images.preparation import Hashing
import numpy as np
signal.signal(signal.SIGINT, signal.default_int_handler)  # which is ignored where tests run in the background
pool = DecodingPool(1)
image = np.zeros((4, 4), np.uint8)
pool.prepare(Hashing(), [ImageRequest(image, "photo")])
try:
    print(*(worker._process.pid for worker in pool._running._all), flush=True)
    while True:
        time.sleep(0.05)
except KeyboardInterrupt:  # as a terminal sends it to all processes of its group
    print(len(pool.prepare(Hashing(), [ImageRequest(image, "photo")])[0]), flush=True)
"""


def test_no_worker_outlives_a_killed_program_nor_is_stopped_by_its_ctrl_c(tmp_path):
    """The script has no `if __name__ == "__main__"`, which multiprocessing would need."""
    (tmp_path / "script.py").write_text(SCRIPT)
    programs = [
        subprocess.Popen(
            [sys.executable, tmp_path / "script.py"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
            process_group=0,
        )
        for _ in range(2)
    ]
    killed, interrupted = programs
    pids = [int(program.stdout.readline()) for program in programs]
    os.killpg(killed.pid, signal.SIGKILL)
    os.killpg(interrupted.pid, signal.SIGINT)
    output, errors = interrupted.communicate(timeout=60)
    assert (output, errors, interrupted.returncode) == ("33\n", "", 0)
    assert killed.communicate(timeout=60)[1] == ""
    deadline = time.monotonic() + 20
    while any(map(is_alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_alive, pids))


def test_workers_that_cannot_start_are_an_error(monkeypatch, requests):
    monkeypatch.setattr(sys, "executable", "/nothing/python")
    pool = DecodingPool(2)
    for _ in range(2):
        with pytest.raises(
            UserError, match="cannot be started .No such file or directory.; set config.data.workers=0"
        ):
            pool.prepare(Hashing(), requests)
    monkeypatch.undo()
    assert len(pool.prepare(Hashing(), requests)) == len(requests)


def test_workers_import_nothing_from_the_current_folder(monkeypatch, tmp_path, requests):
    (tmp_path / "queue.py").write_text("raise SystemExit('the queue of another program')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    assert len(DecodingPool(1).prepare(Hashing(), requests)) == len(requests)


@pytest.mark.parametrize(("cores", "expected"), [(1, 0), (2, 0), (3, 2), (8, 7), (200, 16)])
def test_default_workers(cores, expected, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    assert default_workers() == expected
