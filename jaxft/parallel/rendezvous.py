"""Waits until all processes of a run have started, and says who is missing, where jax would abort."""

import json
import os
import socket
import time

from jaxft.errors import UserError
from jaxft.parallel import processes

RETRY_S = 0.5


def wait_for_all(address: str, count: int, index: int, timeout: float) -> None:
    """Returns in all of `count` processes when all have called it: process 0 listens at `address`, "HOST:PORT".

    Raises `UserError` in those that have come where `timeout` seconds have passed, or two have one number.
    """
    host, _, port = address.rpartition(":")
    until = time.monotonic() + timeout
    if index == 0:
        _receive(address, int(port), count, timeout, until)
    else:
        _call(address, host.strip("[]"), int(port), count, index, timeout, until)


def _receive(address: str, port: int, count: int, timeout: float, until: float) -> None:
    try:
        both = {"family": socket.AF_INET6, "dualstack_ipv6": True} if socket.has_dualstack_ipv6() else {}
        listener = socket.create_server(("", port), backlog=count, **both)
    except OSError as error:
        raise UserError(
            f"--coordinator {address}: port {port} cannot be had here ({os.strerror(error.errno)}); if another run "
            "has it, name another port in all processes"
        ) from None
    came: dict[int, tuple[socket.socket, str]] = {}
    problem = None
    with listener:
        while len(came) < count - 1 and not problem:
            listener.settimeout(max(until - time.monotonic(), 0.001))
            try:
                caller, _ = listener.accept()
                caller.settimeout(5)
                index, its_count, its_host = json.loads(caller.makefile().readline())
            except TimeoutError:
                if time.monotonic() < until:  # a caller that says nothing
                    continue
                problem = _missing(address, count, set(range(1, count)) - came.keys(), timeout)
            except (OSError, ValueError):  # no process of ours
                continue
            else:
                if its_count != count:
                    problem = (
                        f"process {index} ({its_host}) was started with --num_processes {its_count}, process 0 with "
                        f"{count}; start it with: {processes.start_command(index)}"
                    )
                elif index in came:
                    hosts = f"{came[index][1]} and {its_host}"
                    problem = f"two processes have --process_id {index} ({hosts}); give each its own"
                came[index] = caller, its_host
        for caller, _ in came.values():
            with caller:
                try:
                    caller.sendall(json.dumps(problem).encode() + b"\n")
                except OSError:  # it has gone again, which jax's start will find out
                    pass
    if problem:
        raise UserError(f"process 0: {problem}")


def _missing(address: str, count: int, absent: set[int], timeout: float) -> str:
    commands = "; ".join(f"process {one}: {processes.start_command(one)}" for one in sorted(absent)[:4])
    return (
        f"after {timeout} s {len(absent)} of {count} processes are missing ({', '.join(map(str, sorted(absent)))}); "
        f"see that they reach {address}, and start all anew, the missing ones with: {commands}"
    )


def _call(address: str, host: str, port: int, count: int, index: int, timeout: float, until: float) -> None:
    reason = "no answer"
    while (left := until - time.monotonic()) > 0:
        try:
            with socket.create_connection((host, port), timeout=left) as line:
                line.sendall(json.dumps([index, count, socket.gethostname()]).encode() + b"\n")
                line.settimeout(left + 10)  # process 0 may have begun to wait later
                answer = line.makefile().readline()
        except OSError as error:
            reason = error.strerror or str(error)
        else:
            if answer:
                if problem := json.loads(answer):
                    raise UserError(f"process {index}: {problem}")
                return
        time.sleep(min(RETRY_S, max(until - time.monotonic(), 0)))
    raise UserError(
        f"process {index}: after {timeout} s process 0 is not there at {address} ({reason}); it is started there "
        f"with: {processes.start_command(0)}"
    )
