"""Commands outlive the readers of their messages, closed streams and terminals that know few characters."""

import json
import os
import pty
import subprocess
import sys

import pytest

CLOSED = """
import os, sys
from jaxft.cli import streams
streams.open_closed_streams()
file = open(sys.argv[1], "w")
print("a message")
print("another", file=sys.stderr)
os.write(1, b"of a native library")
file.write("data")
file.close()
assert sys.stdin.read() == ""
"""
NARROW = """
from jaxft.cli import streams
streams.open_closed_streams()
print("Größe 北京")
"""


def test_messages_to_closed_streams_go_into_no_file(environment, tmp_path):
    script = f'exec "{sys.executable}" -c "$0" "$1" <&- >&- 2>&-'
    done = subprocess.run(["sh", "-c", script, CLOSED, tmp_path / "out"], env=environment)
    assert done.returncode == 0 and (tmp_path / "out").read_text() == "data"


@pytest.mark.parametrize(
    ("encoding", "shown"), [("ascii", rb"Gr\xf6\xdfe \u5317\u4eac"), ("latin-1", b"Gr\xf6\xdfe ")]
)
def test_narrow_terminals_show_escapes(encoding, shown, environment):
    command = [sys.executable, "-c", NARROW]
    done = subprocess.run(command, env=environment | {"PYTHONIOENCODING": encoding}, capture_output=True)
    assert done.returncode == 0 and done.stdout.startswith(shown)


@pytest.mark.parametrize("verb", ["train", "predict"])
def test_help_has_no_trace_for_a_reader_of_one_line(verb, environment):
    script = f'"{sys.executable}" -m jaxft {verb} --help | head -1'
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", script], env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith("usage")


def test_a_run_does_not_die_of_its_reader(tiny_flags, environment, tmp_path):
    """`... | head -1` ended it with a trace; an ascii terminal broke it before the summary."""
    text = "Größe\tB-ÄRA\nwar\tO\n\n" * 4 + "北京\tB-ÄRA\n\n" * 4
    (tmp_path / "data.conll").write_text(text, encoding="utf-8")
    data = [f"--config.data.{name}={tmp_path / 'data.conll'}" for name in ("train", "dev", "test")]
    flags = [*tiny_flags, *data, "--config.train.steps=2", "--workdir", tmp_path / "run"]
    run = subprocess.Popen(
        [sys.executable, "-m", "jaxft", "train", *map(str, flags)],
        env=environment | {"PYTHONIOENCODING": "ascii"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert run.stdout.readline()
    run.stdout.close()
    assert run.stderr.read() == "" and run.wait(timeout=120) == 0
    assert json.loads((tmp_path / "run/summary.json").read_text())["steps"] == 2


def test_several_processes_outlive_their_readers_too(environment):
    """Each separates its stdout from that of native libraries."""
    script = (
        "from jaxft.cli import several_processes, streams\n"
        "streams.outlive_readers()\n"
        "several_processes._separate_stdout()\n"
        "import sys\n"
        "for _ in range(3000): print('x' * 100, flush=True)\n"
        "print('survived', file=sys.stderr)\n"
    )
    shell = f'"{sys.executable}" -c "$0" | head -1'
    done = subprocess.run(["bash", "-c", shell, script], env=environment, capture_output=True, text=True)
    assert done.stderr == "survived\n" and done.stdout == "x" * 100 + "\n"


def test_a_start_is_announced_where_somebody_waits(environment):
    script = (
        "import time\nfrom jaxft.cli.streams import tell_terminal\nfrom jaxft.training.log.waits import announced\n"
        "with announced('importing jax', tell_terminal, after=0.1): time.sleep(0.5)\n"
    )
    terminal, other_end = pty.openpty()
    command = [sys.executable, "-c", script]
    assert subprocess.run(command, env=environment, stderr=other_end).returncode == 0
    os.close(other_end)
    assert os.read(terminal, 1000).startswith(b"importing jax ...")
    os.close(terminal)
    assert subprocess.run(command, env=environment, capture_output=True).stderr == b""
