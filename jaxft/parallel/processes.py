"""Several processes as one run: which of them this is, what they tell each other, and what they must agree on.

Every process runs the same program and calls the functions here in the same order. They talk through the
key-value store of jax's coordination service, which process 0 keeps: unlike collectives it works before there are
devices, has timeouts, compiles nothing and is safe in a thread. jax has no public name for its client.
With one process each function is the trivial one. cluster.py starts processes, watch.py sees to their end.
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

from jaxft.errors import NonFiniteLoss, Preempted, UserError
from jaxft.parallel.jax_internals import global_state

Result = TypeVar("Result")

PATIENCE_MS = 24 * 3600 * 1000  # one may read data for hours; that it lives is what watch.py sees to
_numbers = itertools.count()  # of exchanges: the same in all processes


def index() -> int:
    """Which process this is, from 0."""
    return global_state.process_id


def count() -> int:
    """How many processes there are."""
    return global_state.num_processes


def is_main_process() -> bool:
    """Whether this process prints and writes what is one for all."""
    return index() == 0


def log(line: str) -> None:
    """Prints a line in process 0."""
    if is_main_process():
        print(line, flush=True)


def broadcast(value: Any) -> Any:
    """Process 0's `value`, a JSON value, in all processes."""
    if count() == 1:
        return value
    key = f"jaxft/first/{next(_numbers)}"
    if is_main_process():
        global_state.client.key_value_set(key, json.dumps(value))
    return json.loads(global_state.client.blocking_key_value_get(key, PATIENCE_MS))


def gather(value: Any) -> list[Any]:
    """Each process's `value`, a JSON value, in their order."""
    if count() == 1:
        return [value]
    folder = f"jaxft/gather/{next(_numbers)}"
    put_key(f"{folder}/{index()}", value)
    global_state.client.wait_at_barrier(folder, PATIENCE_MS)
    return [value for _, value in sorted(read_keys(folder).items())]


def gather_by_shard(own: Mapping[int, Any]) -> list[Any]:
    """Values by numbers from 0 on, of which each process has some: all, in order. Where others differ, this one's."""
    found: dict[int, Any] = {}
    for pairs in reversed(gather(list(own.items()))):
        found |= dict(pairs)
    return [value for _, value in sorted((found | dict(json.loads(json.dumps(list(own.items()))))).items())]


def any_process(flags: np.ndarray) -> np.ndarray:
    """Which of `flags`, bool [N], as many in each process, are set in one of them."""
    if count() == 1:
        return flags
    packed = gather(np.packbits(flags).tobytes().hex())
    bits = np.array([np.frombuffer(bytes.fromhex(text), np.uint8) for text in packed])
    return np.unpackbits(np.bitwise_or.reduce(bits), count=len(flags)).astype(bool)


def run_on_all(action: Callable[[], Result]) -> Result:
    """The result of `action`; where it fails in one process it raises an exception in all."""
    if count() == 1:
        return action()
    result = caught = None
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
    """Raises `UserError` in all processes where one has other `facts`, JSON values by name, than process 0."""
    if count() == 1:
        return
    mine, host = json.loads(json.dumps(facts)), socket.gethostname()
    wanted, its_host, its_words = broadcast([mine, host, sys.orig_argv])
    differing = [
        f"{name} is {_shown(mine.get(name))}, not {_shown(wanted.get(name))}"
        for name in sorted(mine.keys() | wanted.keys())
        if mine.get(name) != wanted.get(name)
    ]
    others = [
        f"process {process} ({host}) differs from process 0 ({its_host}): {'; '.join(differing)}; start it with: "
        f"{start_command(process, its_words)}"
        for process, (differing, host) in enumerate(gather([differing[:4], host]))
        if differing
    ]
    if others:
        raise UserError(
            "; ".join(others[:4])
            + "; all processes need the same settings, packages, data, weights and kind of device"
        )


def _shown(value: Any) -> str:
    """As in Python; of a hash, of which nobody reads more, the beginning."""
    whole = repr(value)
    return f"{whole[:13]}...'" if re.fullmatch(r"'[0-9a-f]{64}'", whole) else whole


def start_command(process: int, words: Sequence[str] | None = None) -> str:
    """The command of `words`, default this one, as `process` would be started; without flags it is every host's."""
    words = list(sys.orig_argv if words is None else words)
    for place, word in enumerate(words):
        if word == "--process_id":
            words[place + 1] = str(process)
        elif word.startswith("--process_id="):
            words[place] = f"--process_id={process}"
    return shlex.join(words)


def fails_alone(error: BaseException) -> bool:
    """Whether `error` may be this process's only, so that nothing can be finished with the others any more."""
    return count() > 1 and not isinstance(error, Preempted | NonFiniteLoss)


def put_key(key: str, value: Any) -> None:
    """Sets a key of the store, new or not, to a JSON value."""
    global_state.client.key_value_set(key, json.dumps(value), allow_overwrite=True)


def read_keys(folder: str) -> dict[int, Any]:
    """Values under `folder` by the process that their keys end with."""
    pairs = global_state.client.key_value_dir_get(folder + "/")
    return {int(key.rpartition("/")[2]): json.loads(value) for key, value in pairs}
