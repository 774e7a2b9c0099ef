"""Runs a verb that is killed at its n-th write below a folder: `killed.py NUMBER FOLDER VERB FLAGS...`.

Whatever Python makes, opens for writing, renames or removes there counts, in all threads. The command is killed just
before it happens. A file that is opened counts twice: before, and when it is there and empty.
"""

import itertools
import os
import runpy
import signal
import sys
from typing import Any

# For each event of `sys.audit`, where a path is among its arguments, and where the folder's descriptor of that path.
PATHS = {
    "open": ((0, None),),
    "os.mkdir": ((0, 2),),
    "os.rename": ((0, 2), (1, 3)),
    "os.remove": ((0, 1),),
    "os.rmdir": ((0, 1),),
    "os.truncate": ((0, None),),
}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


def kill_at(number: int, folder: str) -> None:
    """Lets this process be killed at its write number `number`, counted from 1, below `folder`."""
    folder, writes = os.path.realpath(folder), itertools.count(1)

    def is_below(path: Any, descriptor: int) -> bool:
        if isinstance(path, int):  # a file that was opened before
            return False
        base = os.getcwd() if descriptor < 0 else os.readlink(f"/proc/self/fd/{descriptor}")
        return os.path.realpath(os.path.join(base, os.fsdecode(path))).startswith(folder + os.sep)

    def watch(event: str, arguments: tuple) -> None:
        if event not in PATHS or (event == "open" and not arguments[2] & WRITES):
            return
        places = ((arguments[path], -1 if at is None else arguments[at]) for path, at in PATHS[event])
        if not any(is_below(path, descriptor) for path, descriptor in places):
            return
        if next(writes) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        if event == "open" and next(writes) == number:
            os.open(arguments[0], arguments[2], 0o666)  # comes here again, with a larger number
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


if __name__ == "__main__":
    kill_at(int(sys.argv[1]), sys.argv[2])
    sys.argv = ["jaxft", *sys.argv[3:]]
    runpy.run_module("jaxft", run_name="__main__", alter_sys=True)
