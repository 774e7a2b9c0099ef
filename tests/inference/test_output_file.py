"""An output has its name once it is complete; until then, and after an error, its name says that it is not."""

import signal
import subprocess
import sys

import pytest

from jaxft.inference.output_file import open_output


def test_a_file_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "out"
    with open_output(str(path), print) as put:
        put([b"a\n", b"b\n"])
        assert not path.exists()
        [partial] = tmp_path.iterdir()
        assert partial.name.startswith("out.unfinished") and partial.read_bytes() == b"a\nb\n"
    assert path.read_bytes() == b"a\nb\n" and list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_what_is_done_under_another_name(tmp_path):
    path, logged = tmp_path / "out", []
    path.write_bytes(b"earlier")
    for content in (b"first", b"second", b""):
        with pytest.raises(KeyError), open_output(str(path), logged.append) as put:
            put([content])
            raise KeyError
    assert path.read_bytes() == b"earlier"
    assert (tmp_path / "out.unfinished").read_bytes() == b"second"  # nothing is no reason to replace it
    assert len(list(tmp_path.iterdir())) == 2
    assert logged == [f"--output {path}: unfinished; what is done is in {path}.unfinished"] * 2


SCRIPT = """
import argparse, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # tests that run in the background ignore it
from jaxft.cli.command import command
from jaxft.cli.flags import add_process_flags
from jaxft.inference.output_file import open_output
parser = argparse.ArgumentParser()
add_process_flags(parser)
with command(parser, []), open_output(sys.argv[1], print) as put:
    put([b"one"])
    print("written", flush=True)
    time.sleep(60)
"""


def test_a_command_that_is_stopped_keeps_what_is_done(tmp_path, environment):
    for number, code in ((signal.SIGTERM, 128 + signal.SIGTERM), (signal.SIGINT, 130)):
        path = tmp_path / f"out-{number}"
        command = [sys.executable, "-c", SCRIPT, str(path)]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "written\n"
        process.send_signal(number)
        assert process.communicate()[0] == (
            f"--output {path}: unfinished; what is done is in {path}.unfinished\n"
        )
        assert process.returncode == code
        assert not path.exists() and path.with_name(f"{path.name}.unfinished").read_bytes() == b"one"
