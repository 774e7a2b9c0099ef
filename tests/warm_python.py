"""Runs commands in a Python that has already imported everything: `warm_python.py SOCKET -m jaxft train ...`.

That takes a tenth of a second. `warm_python.py SOCKET` is the server: it imports what commands import and, for each
client, forks a process that runs the client's arguments as `python` would, in the client's folder and environment and
on its stdin, stdout and stderr. The client ends as that process does; if the client is killed, the process is too. The
fork has no JAX backend, because the server starts none and so has no threads. It shares with its siblings the seed of
`hash` and the settings that are read during imports.
"""

import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Iterator

MESSAGE = 1 << 20  # bytes, at most
# What the packages of jaxft import while they run.
MODULES = (
    "jaxlib.mlir.dialects.builtin",
    "jaxlib.mlir.dialects.mhlo",
    "pyarrow.pandas_compat",
    "rich._emoji_codes",
    "seqeval.metrics",
    "sklearn.metrics",
    "transformers.models.bert.configuration_bert",
    "transformers.models.bert.tokenization_bert",
    "transformers.models.gpt2.tokenization_gpt2",
)
LEFT_OUT = ("__main__", "main", "with_torch", "heads_loader")  # programs, and what imports torch


@contextlib.contextmanager
def warm_python(path: str, environment: dict[str, str]) -> Iterator[list[str]]:
    """Starts the server at the socket `path`; yields the command line of a client, to be followed by its arguments."""
    import subprocess

    from jaxft.cli import startup

    # The tunable for which a command would start itself again; a single thread, because threads do not survive a fork.
    settings = {"GLIBC_TUNABLES": startup.TUNABLE, "OPENBLAS_NUM_THREADS": "1"}
    server = subprocess.Popen(
        [sys.executable, __file__, path],
        env=environment | settings,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with server:  # it ends when its stdin is closed
        assert server.stdout.readline() == b"ready\n"
        yield [sys.executable, "-I", "-S", __file__, path]


def ask(path: str, arguments: list[str]) -> None:
    """Asks the server to run the arguments, and ends as that process ends."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
        server.connect(path)
        request = [arguments, os.getcwd(), dict(os.environ)]
        socket.send_fds(server, [json.dumps(request).encode()], [0, 1, 2])
        status = int(server.recv(MESSAGE) or 0x7F00)
    if os.WIFSIGNALED(status):
        os.kill(os.getpid(), os.WTERMSIG(status))
    sys.exit(os.WEXITSTATUS(status))


def serve(path: str) -> list[str]:
    """Forks for each client until stdin ends. Returns only in a fork: the arguments that it must run."""
    import select

    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(path)
        listener.listen(64)
        print("ready", flush=True)
        while True:
            ready, _, _ = select.select([listener, sys.stdin], [], [])
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:  # collects those that have ended
                    pass
            if sys.stdin in ready:
                os._exit(0)
            client, _ = listener.accept()
            if not fork():
                break
            client.close()
    message, streams, *_ = socket.recv_fds(client, MESSAGE, 3)
    if pid := fork():
        watch(client, pid)
    arguments, folder, environment = json.loads(message)
    client.close()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(folder)
    tunables = {"GLIBC_TUNABLES": os.environ["GLIBC_TUNABLES"]}  # a fork has those of the server
    os.environ.clear()
    os.environ.update(environment | tunables)
    return arguments


def watch(client: socket.socket, pid: int) -> None:
    """Tells the client how the process ended, or ends it with the client."""
    import select

    for stream in range(3):
        os.close(stream)
    process = os.pidfd_open(pid)
    ready, _, _ = select.select([process, client], [], [])
    if process not in ready:
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if process in ready:
        client.send(str(status).encode())
    os._exit(0)


def fork() -> int:
    """Forks without JAX's warning."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that JAX may run threads
        return os.fork()


def import_all() -> None:
    """Imports all modules of jaxft, for commands import most of them late, and what these import; not torch."""
    import gc
    import importlib
    import pkgutil

    import jaxft
    from jaxft.cli import startup

    startup.leave_torch_out()
    sys.modules["torch"] = None
    importlib.import_module("tensorboardX")  # would import it
    del sys.modules["torch"]
    for module in pkgutil.walk_packages(jaxft.__path__, "jaxft."):
        if module.name.rpartition(".")[2] not in LEFT_OUT:
            importlib.import_module(module.name)
    for name in MODULES:
        importlib.import_module(name)
    gc.freeze()  # else a fork's first collection would touch, and so copy, all of it


def become(arguments: list[str]) -> None:
    """Runs the arguments as `python` does."""
    import runpy
    import types

    sys.orig_argv = [sys.executable, *arguments]
    first, *rest = arguments
    if first == "-m":
        sys.argv = rest
        sys.path[0] = os.getcwd()
        sys.modules.pop(rest[0], None)
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif first == "-c":
        sys.argv = ["-c", *rest[1:]]
        sys.path[0] = ""
        sys.modules["__main__"] = types.ModuleType("__main__")
        exec(rest[0], vars(sys.modules["__main__"]))
    else:
        sys.argv = arguments
        sys.path[0] = os.path.dirname(os.path.abspath(first))
        runpy.run_path(first, run_name="__main__")


if __name__ == "__main__":
    if len(sys.argv) > 2:
        ask(sys.argv[1], sys.argv[2:])
    else:
        import_all()
        become(serve(sys.argv[1]))
