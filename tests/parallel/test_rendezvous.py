"""Processes of a job find each other, whatever strangers send to the port, and nobody else is taken for one of them."""

import concurrent.futures
import json
import socket
import threading
import time

import pytest

from jaxft.errors import UserError
from jaxft.parallel import rendezvous
from tests.conftest import free_port


@pytest.fixture
def start(monkeypatch):
    """Returns a function that starts a process of three in a thread, and returns the future of its end."""
    monkeypatch.delenv(rendezvous.TOKEN_VARIABLE, raising=False)
    address = f"127.0.0.1:{free_port()}"
    with concurrent.futures.ThreadPoolExecutor(8) as pool:

        def start(index: int, folder, *, count: int = 3, timeout: float = 20):
            return pool.submit(rendezvous.wait_for_all, address, count, index, timeout, folder)

        start.address = address
        yield start


def call(address: str) -> socket.socket:
    """Returns a connection to the address, as soon as somebody listens."""
    host, _, port = address.rpartition(":")
    for _ in range(100):
        try:
            return socket.create_connection((host, int(port)), timeout=10)
        except OSError:
            time.sleep(0.05)
    raise AssertionError("nobody listens")


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"null\n",
        b'{"a": 1}\n',
        b"[1, 3]\n",
        b'["1", "3", 2, null]\n',
        b'[true, 3, "h", ""]\n',
        b"\xff\xfe\n",
        b"[" * 100_000,
        b"[" * 4000 + b"\n",
        b'[1, 3, "forged", ""]\n',
        b'[1, 3, "forged", "0123"]\n',
        b'[99, 3, "h", ""]\n',
    ],
)
def test_a_stray_line_is_turned_away(line, start, tmp_path):
    """Nothing is answered, also to a forged greeting without the job's token; the run starts all the same."""
    main = start(0, tmp_path)
    with call(start.address) as stranger:
        stranger.sendall(line)
        stranger.shutdown(socket.SHUT_WR)
        try:
            assert stranger.recv(100) == b""
        except ConnectionError:  # closed before all was read
            pass
    for future in (start(1, tmp_path), start(2, tmp_path), main):
        future.result(timeout=20)
    assert list(tmp_path.iterdir()) == []  # the token is gone


def test_a_slow_caller_neither_holds_up_the_others_nor_the_deadline(start, tmp_path, monkeypatch):
    """It sends a byte now and then; once a run starts beside it, once nobody else comes."""
    monkeypatch.setattr(rendezvous, "GREETING_S", 60.0)

    def drip(connection, stop):
        while not stop.wait(0.1):
            try:
                connection.sendall(b"[")
            except OSError:
                return

    for others, timeout in (((1, 2), 20), ((), 1.5)):
        main, stop = start(0, tmp_path, timeout=timeout), threading.Event()
        with call(start.address) as slow:
            threading.Thread(target=drip, args=(slow, stop)).start()
            began = time.monotonic()
            futures = [start(index, tmp_path) for index in others]
            if others:
                for future in (*futures, main):
                    future.result(timeout=15)
            else:
                with pytest.raises(UserError, match=r"after 1.5 s 2 of 3 processes are missing \(1, 2\)"):
                    main.result(timeout=15)
            assert time.monotonic() - began < 15
            stop.set()


def test_a_process_of_another_job_is_not_taken_for_one_of_this(start, tmp_path, monkeypatch):
    with pytest.raises(
        UserError, match="turns this process away: has this one another JAXFT_TOKEN or another run folder"
    ):
        main = start(0, tmp_path / "run")
        start(1, tmp_path / "other", timeout=2).result(timeout=20)
    for future in (start(1, tmp_path / "run"), start(2, tmp_path / "run"), main):
        future.result(timeout=20)
    assert not (tmp_path / "run").exists()  # it was made for the token only


def test_processes_that_disagree_are_all_told(start, tmp_path):
    main, first = start(0, tmp_path), start(1, tmp_path)
    time.sleep(0.5)
    second = start(1, tmp_path)
    for future in (main, first, second):
        with pytest.raises(UserError, match="two processes have --process_id 1 .*; give each its own"):
            future.result(timeout=20)
    main, other = start(0, tmp_path), start(1, tmp_path, count=4)
    for future in (main, other):
        with pytest.raises(
            UserError, match="process 1 .* was started with --num_processes 4, process 0 with 3"
        ):
            future.result(timeout=20)


def test_a_process_that_ended_and_starts_again_is_no_second_one(start, tmp_path):
    main = start(0, tmp_path)
    with call(start.address) as ended:
        while not (token := tmp_path / rendezvous.TOKEN_FILE).exists():
            time.sleep(0.01)
        ended.sendall(json.dumps([1, 3, "h", token.read_text()]).encode() + b"\n")
        assert token.stat().st_mode & 0o077 == 0
    time.sleep(0.3)
    for future in (start(1, tmp_path), start(2, tmp_path), main):
        future.result(timeout=20)


@pytest.mark.parametrize(
    ("host", "addresses", "interface"),
    [
        ("127.0.0.1", None, "127.0.0.1"),
        ("::1", None, "::1"),
        ("localhost", ["127.0.0.1", "::1"], "localhost"),
        ("node7", ["10.0.0.7"], "node7"),
        ("node7", ["127.0.1.1"], None),  # Debian's address for a machine's own name
    ],
)
def test_it_listens_at_the_coordinators_address_only(host, addresses, interface, monkeypatch):
    entries = [(0, 0, 0, "", (address, 1)) for address in addresses or ()]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: entries)
    assert rendezvous._interface(host, 1) == interface
