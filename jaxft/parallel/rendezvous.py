"""Waits until all processes of a run have started, and names missing processes; jax would abort instead.

Process 0 listens at a TCP address. Every other process sends it one line of JSON, `[number, count, host]`. When all
have sent theirs, each receives one line: `null`, or an error message.
"""

import json
import os
import socket
import time

from jaxft.errors import UserError
from jaxft.parallel import processes

RETRY_S = 0.5


def wait_for_all(address: str, count: int, index: int, timeout: float) -> None:
    """Waits until all processes have called it.

    Args:
        address: the address where process 0 listens, "HOST:PORT".
        count: the number of processes.
        index: the number of this process.
        timeout: the seconds to wait for the other processes.

    Raises:
        UserError: the time is over, or two processes have the same number. It is raised in all processes that called.
    """
    deadline = time.monotonic() + timeout
    if index == 0:
        _receive_all(address, count, timeout, deadline)
    else:
        _report_to_main(address, count, index, timeout, deadline)


def _receive_all(address: str, count: int, timeout: float, deadline: float) -> None:
    """Waits in process 0 for a line from every other process, and answers all of them."""
    port = int(address.rpartition(":")[2])
    try:
        both_ips = {"family": socket.AF_INET6, "dualstack_ipv6": True} if socket.has_dualstack_ipv6() else {}
        listener = socket.create_server(("", port), backlog=count, **both_ips)
    except OSError as error:
        raise UserError(
            f"--coordinator {address}: port {port} cannot be had here ({os.strerror(error.errno)}); if another run "
            "has it, name another port in all processes"
        ) from None
    arrivals: dict[int, tuple[socket.socket, str]] = {}  # by process: its connection and its host
    problem = None
    with listener:
        while len(arrivals) < count - 1 and not problem:
            listener.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                caller, _ = listener.accept()
                caller.settimeout(5)
                index, caller_count, caller_host = json.loads(caller.makefile().readline())
            except TimeoutError:
                if time.monotonic() < deadline:  # a caller that sends nothing
                    continue
                problem = _name_missing(address, count, set(range(1, count)) - arrivals.keys(), timeout)
            except (OSError, ValueError):  # not a process of this run
                continue
            else:
                if caller_count != count:
                    problem = (
                        f"process {index} ({caller_host}) was started with --num_processes {caller_count}, process 0 "
                        f"with {count}; start it with: {processes.command_to_start(index)}"
                    )
                elif index in arrivals:
                    hosts = f"{arrivals[index][1]} and {caller_host}"
                    problem = f"two processes have --process_id {index} ({hosts}); give each its own"
                arrivals[index] = caller, caller_host
        for caller, _ in arrivals.values():
            with caller:
                try:
                    caller.sendall(json.dumps(problem).encode() + b"\n")
                except OSError:  # the caller is gone; jax's start will notice that
                    pass
    if problem:
        raise UserError(f"process 0: {problem}")


def _name_missing(address: str, count: int, missing: set[int], timeout: float) -> str:
    """Returns the message that names the `missing` processes, and the commands of the first four."""
    numbers = sorted(missing)
    commands = "; ".join(f"process {index}: {processes.command_to_start(index)}" for index in numbers[:4])
    return (
        f"after {timeout} s {len(numbers)} of {count} processes are missing ({', '.join(map(str, numbers))}); "
        f"see that they reach {address}, and start all anew, the missing ones with: {commands}"
    )


def _report_to_main(address: str, count: int, index: int, timeout: float, deadline: float) -> None:
    """Sends this process's line to process 0, repeatedly until it listens, and waits for its answer."""
    host, _, port = address.rpartition(":")
    reason = "no answer"
    while (seconds_left := deadline - time.monotonic()) > 0:
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout=seconds_left) as connection:
                connection.sendall(json.dumps([index, count, socket.gethostname()]).encode() + b"\n")
                connection.settimeout(seconds_left + 10)  # process 0 may have started to wait later
                answer = connection.makefile().readline()
        except OSError as error:
            reason = error.strerror or str(error)
        else:
            if answer:
                if problem := json.loads(answer):
                    raise UserError(f"process {index}: {problem}")
                return
        time.sleep(min(RETRY_S, max(deadline - time.monotonic(), 0)))
    raise UserError(
        f"process {index}: after {timeout} s process 0 is not there at {address} ({reason}); it is started there "
        f"with: {processes.command_to_start(0)}"
    )
