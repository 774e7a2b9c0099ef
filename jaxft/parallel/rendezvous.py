"""Waits until all processes of a run have started, and names missing processes; jax would abort instead.

Process 0 listens at a TCP address. Every other process sends it one line of JSON, `[number, count, host, token]`. When
all have sent theirs, each receives one line: `null`, or an error message. A caller that sends anything else, or too
slowly, is turned away.

The token shows that a process belongs to the job. It is `JAXFT_TOKEN` of the environment. Without that, process 0
writes a random one into the folder that the processes share, which only their user may read.
"""

import asyncio
import contextlib
import errno
import hmac
import ipaddress
import json
import os
import secrets
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from jaxft.errors import UserError
from jaxft.parallel import processes

RETRY_S = 0.5
GREETING_S = 5.0  # in which a caller must send its line
LINE_BYTES = 4096
TOKEN_VARIABLE, TOKEN_FILE = "JAXFT_TOKEN", ".job-token"


class Greeting(NamedTuple):
    """The line that a process sends to process 0."""

    process: int
    processes: int
    host: str
    token: str


def wait_for_all(address: str, count: int, index: int, timeout: float, folder: Path | None = None) -> None:
    """Waits until all processes have called it.

    Args:
        address: the address where process 0 listens, "HOST:PORT".
        count: the number of processes.
        index: the number of this process.
        timeout: the seconds to wait for the other processes.
        folder: a folder that the processes share, for a token if the environment has none.

    Raises:
        UserError: the time is over, or two processes have the same number. It is raised in all processes that called.
    """
    deadline = time.monotonic() + timeout
    if index > 0:
        _report_to_main(address, count, index, timeout, deadline, folder)
        return
    with _make_token(folder) as token:
        problem = asyncio.run(_receive_all(address, count, timeout, deadline, token))
    if problem:
        raise UserError(f"process 0: {problem}")


@contextlib.contextmanager
def _make_token(folder: Path | None) -> Iterator[str]:
    """Yields the job's token in process 0; "" if there is none. Its file lasts until all processes are there."""
    if token := os.environ.get(TOKEN_VARIABLE, ""):
        yield token
        return
    if folder is None:
        yield ""
        return
    is_new, file = not folder.exists(), folder / TOKEN_FILE
    token = secrets.token_hex(16)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
        with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
            opened.write(token)
    except OSError:  # what is wrong with the folder is said by whoever needs it
        token = ""
    try:
        yield token
    finally:
        with contextlib.suppress(OSError):
            file.unlink(missing_ok=True)
            if is_new:
                folder.rmdir()


def _read_token(folder: Path | None) -> str:
    """Returns the job's token in another process; "" if there is none yet."""
    if token := os.environ.get(TOKEN_VARIABLE, ""):
        return token
    try:
        return "" if folder is None else (folder / TOKEN_FILE).read_text()
    except (OSError, ValueError):
        return ""


async def _receive_all(address: str, count: int, timeout: float, deadline: float, token: str) -> str | None:
    """Waits in process 0 for a line from every other process, and answers all of them; returns the problem, if any."""
    arrivals: dict[int, tuple[asyncio.StreamReader, str]] = {}  # by process: its connection and its host
    writers: list[asyncio.StreamWriter] = []  # to all who wait for an answer
    problem: str | None = None
    is_done = asyncio.Event()

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal problem
        try:
            async with asyncio.timeout(GREETING_S):
                caller = _parse_greeting(await reader.readline(), count, token)
        except (TimeoutError, OSError, ValueError):  # not a process of this run
            caller = None
        if caller is None or is_done.is_set():
            writer.close()
            return
        if caller.processes != count:
            problem = (
                f"process {caller.process} ({caller.host}) was started with --num_processes {caller.processes}, "
                f"process 0 with {count}; start it with: {processes.command_to_start(caller.process)}"
            )
        elif caller.process in arrivals and not arrivals[caller.process][0].at_eof():
            hosts = f"{arrivals[caller.process][1]} and {caller.host}"
            problem = f"two processes have --process_id {caller.process} ({hosts}); give each its own"
        arrivals[caller.process] = reader, caller.host
        writers.append(writer)
        # A process that ended and started again calls again; its first connection is at its end.
        if problem or sum(not reader.at_eof() for reader, _ in arrivals.values()) == count - 1:
            is_done.set()

    server = await _listen(address, count, greet)
    try:
        async with asyncio.timeout(max(deadline - time.monotonic(), 0.001)):
            await is_done.wait()
    except TimeoutError:
        is_done.set()
        problem = _name_missing(address, count, set(range(1, count)) - arrivals.keys(), timeout)
    server.close()
    for writer in writers:
        with contextlib.suppress(OSError):  # the caller is gone; jax's start will notice that
            writer.write(json.dumps(problem).encode() + b"\n")
            await writer.drain()
            writer.close()
            await writer.wait_closed()
    return problem


def _parse_greeting(line: bytes, count: int, token: str) -> Greeting | None:
    """Returns the greeting in a line of a process of this job; None for any other line.

    Raises ValueError for a line that is not JSON.
    """
    fields = json.loads(line)
    if not isinstance(fields, list) or [type(field) for field in fields] != [int, int, str, str]:
        return None
    greeting = Greeting(*fields)
    is_possible = 0 < greeting.process < max(count, greeting.processes) and len(greeting.host) <= 255
    is_of_job = not token or hmac.compare_digest(greeting.token.encode(), token.encode())
    return greeting if is_possible and is_of_job else None


async def _listen(address: str, count: int, greet: Callable[..., Awaitable[None]]) -> asyncio.Server:
    """Listens at the address only. Raises `UserError` if that cannot be had here."""
    host, _, port = address.rpartition(":")
    try:
        return await asyncio.start_server(
            greet, _interface(host.strip("[]"), int(port)), int(port), backlog=count + 16, limit=LINE_BYTES
        )
    except OSError as error:
        if error.errno == errno.EADDRNOTAVAIL:
            raise UserError(
                f"--coordinator {address}: no address of this machine; give the host or the IP that process 0 has "
                "itself, in all processes"
            ) from None
        raise UserError(
            f"--coordinator {address}: port {port} cannot be had here ({os.strerror(error.errno or 0)}); if another "
            "run has it, name another port in all processes"
        ) from None


def _interface(host: str, port: int) -> str | None:
    """Returns the interface to listen at: the host; None, for all, if its name leads here only to this machine itself.

    Some systems give their own name the address 127.0.1.1, where other machines cannot call.
    """
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(host)
        return host
    try:
        addresses = {str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
    except OSError:  # its name is not known yet, as in a pod that has just started
        return None
    leads_here = all(ipaddress.ip_address(text.partition("%")[0]).is_loopback for text in addresses)
    return None if leads_here and host != "localhost" else host


def _name_missing(address: str, count: int, missing: set[int], timeout: float) -> str:
    """Returns the message that names the `missing` processes, and the commands of the first four."""
    numbers = sorted(missing)
    commands = "; ".join(f"process {index}: {processes.command_to_start(index)}" for index in numbers[:4])
    return (
        f"after {timeout} s {len(numbers)} of {count} processes are missing ({', '.join(map(str, numbers))}); "
        f"see that they reach {address}, and start all anew, the missing ones with: {commands}"
    )


def _report_to_main(
    address: str, count: int, index: int, timeout: float, deadline: float, folder: Path | None
) -> None:
    """Sends this process's line to process 0, repeatedly until it listens, and waits for its answer."""
    host, _, port = address.rpartition(":")
    reason = "no answer"
    while (seconds_left := deadline - time.monotonic()) > 0:
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout=seconds_left) as connection:
                greeting = Greeting(index, count, socket.gethostname(), _read_token(folder))
                connection.sendall(json.dumps(greeting).encode() + b"\n")
                connection.settimeout(seconds_left + 10)  # process 0 may have started to wait later
                answer = connection.makefile().readline(1 << 16)
        except OSError as error:
            reason = error.strerror or str(error)
        else:
            with contextlib.suppress(ValueError):
                problem = json.loads(answer)
                if problem is None:
                    return
                if isinstance(problem, str):
                    raise UserError(f"process {index}: {problem}")
            reason = (
                f"it turns this process away: has this one another {TOKEN_VARIABLE} or another run folder?"
            )
        time.sleep(min(RETRY_S, max(deadline - time.monotonic(), 0)))
    raise UserError(
        f"process {index}: after {timeout} s process 0 is not there at {address} ({reason}); it is started there "
        f"with: {processes.command_to_start(0)}"
    )
