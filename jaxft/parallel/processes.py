"""Lets the processes of one run exchange JSON values and check that they agree.

Every process runs the same program and calls these functions in the same order. The values go through the key-value
store of jax's coordination service, which process 0 keeps. Unlike collectives, the store works before there are
devices, has timeouts, compiles nothing and is safe in threads. jax has no public name for its client. In a run of one
process, each function returns at once. `launch_detection` joins the processes of a run. `heartbeat` ends all processes
if one is lost.
"""

import itertools
import json
import re
import shlex
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from jaxft.errors import NonFiniteLoss, Preempted, UserError, printable
from jaxft.io.stores import with_addresses
from jaxft.parallel.jax_internals import global_state

Result = TypeVar("Result")

# A process may read data for hours; `heartbeat` notices if it dies.
PATIENCE_MS = 24 * 3600 * 1000
_exchange_numbers = itertools.count()  # the same in all processes


def index() -> int:
    """Returns the number of this process, from 0."""
    return global_state.process_id


def count() -> int:
    """Returns the number of processes."""
    return global_state.num_processes


def is_main_process() -> bool:
    """Returns whether this process prints and writes for all processes."""
    return index() == 0


def log(line: str) -> None:
    """Prints a line, in process 0 only."""
    if is_main_process():
        print(printable(with_addresses(line)), flush=True)


def broadcast(value: Any) -> Any:
    """Returns process 0's `value`, a JSON value, to all processes."""
    if count() == 1:
        return value
    key = f"jaxft/first/{next(_exchange_numbers)}"
    if is_main_process():
        global_state.client.key_value_set(key, json.dumps(value))
    return json.loads(global_state.client.blocking_key_value_get(key, PATIENCE_MS))


def gather(value: Any) -> list[Any]:
    """Returns the `value`, a JSON value, of each process, in the order of process numbers."""
    if count() == 1:
        return [value]
    folder = f"jaxft/gather/{next(_exchange_numbers)}"
    put_key(f"{folder}/{index()}", value)
    global_state.client.wait_at_barrier(folder, PATIENCE_MS)
    return [value for _, value in sorted(read_keys(folder).items())]


def gather_by_shard(local_values: Mapping[int, Any]) -> list[Any]:
    """Returns the values of all shards, in the order of shards.

    If several processes have a value for the same shard, this process's value is taken, or else the value of the
    process with the lowest number.

    Args:
        local_values: this process's JSON values by shard number, from 0.
    """
    pairs = list(local_values.items())
    values: dict[int, Any] = {}
    for process_pairs in reversed(gather(pairs)):
        values |= dict(process_pairs)
    values |= dict(json.loads(json.dumps(pairs)))
    return [value for _, value in sorted(values.items())]


def any_process(flags: np.ndarray) -> np.ndarray:
    """Returns for each flag whether it is set in any process; bool `[N]`, with the same N in all processes."""
    if count() == 1:
        return flags
    packed = gather(np.packbits(flags).tobytes().hex())
    bits = np.array([np.frombuffer(bytes.fromhex(text), np.uint8) for text in packed])
    return np.unpackbits(np.bitwise_or.reduce(bits), count=len(flags)).astype(bool)


def run_on_all(action: Callable[[], Result]) -> Result:
    """Returns the result of `action`. Raises an exception in all processes if `action` fails in one."""
    if count() == 1:
        return action()
    caught = None
    try:
        result = action()
    except Exception as error:
        caught = error
    failures = gather(None if caught is None else f"{type(caught).__name__}: {caught}")
    if caught is not None:
        raise caught
    for process, failure in enumerate(failures):
        if failure is not None:
            raise RuntimeError(f"in process {process}: {failure}")
    return result


def assert_same(facts: Mapping[str, Any]) -> None:
    """Raises `UserError` in all processes if the `facts` of any process differ from those of process 0.

    Args:
        facts: JSON values by name.
    """
    if count() == 1:
        return
    local_facts, host = json.loads(json.dumps(facts)), socket.gethostname()
    main_facts, main_host, main_argv = broadcast([local_facts, host, sys.orig_argv])
    differences = [
        f"{name} is {_abbreviate(local_facts.get(name))}, not {_abbreviate(main_facts.get(name))}"
        for name in sorted(local_facts.keys() | main_facts.keys())
        if local_facts.get(name) != main_facts.get(name)
    ]
    complaints = [
        f"process {process} ({host}) differs from process 0 ({main_host}): {'; '.join(differences)}; start it with: "
        f"{command_to_start(process, main_argv)}"
        for process, (differences, host) in enumerate(gather([differences[:4], host]))
        if differences
    ]
    if complaints:
        raise UserError(
            "; ".join(complaints[:4])
            + "; all processes need the same settings, packages, data, weights and kind of device"
        )


def _abbreviate(value: Any) -> str:
    """Returns `repr(value)`, but only the beginning of a hash, because nobody reads more."""
    text = repr(value)
    return f"{text[:13]}...'" if re.fullmatch(r"'[0-9a-f]{64}'", text) else text


def command_to_start(process: int, words: Sequence[str] | None = None) -> str:
    """Returns the command line that starts `process`.

    Args:
        process: its number.
        words: the command line of any process of the run; default: this process's. If it has no `--process_id`, because
            every host runs the same command, it is returned unchanged.
    """
    words = list(sys.orig_argv if words is None else words)
    for place, word in enumerate(words):
        if word == "--process_id":
            words[place + 1] = str(process)
        elif word.startswith("--process_id="):
            words[place] = f"--process_id={process}"
    return shlex.join(words)


def fails_alone(error: BaseException) -> bool:
    """Returns whether `error` may be only in this process, which then can finish nothing with the other processes."""
    return count() > 1 and not isinstance(error, Preempted | NonFiniteLoss)


def put_key(key: str, value: Any) -> None:
    """Sets a key of the store to a JSON value; the key may exist already."""
    global_state.client.key_value_set(key, json.dumps(value), allow_overwrite=True)


def read_keys(folder: str) -> dict[int, Any]:
    """Returns the values under `folder` by process number, the end of their keys."""
    pairs = global_state.client.key_value_dir_get(folder + "/")
    return {int(key.rpartition("/")[2]): json.loads(value) for key, value in pairs}
