"""Help is quick: no verb imports what computes before it has answered."""

import json
import subprocess
import sys

import pytest

from jaxft.cli.verbs import VERBS

SCRIPT = """
import contextlib, io, json, runpy, sys
out = io.StringIO()
sys.argv[1:] = [VERB, "--help"]
with contextlib.redirect_stdout(out):
    try:
        runpy.run_module("jaxft", run_name="__main__")
    except SystemExit as exit:
        code = exit.code
print(json.dumps({"help": out.getvalue(), "code": code, "modules": sorted(sys.modules)}))
"""


@pytest.mark.parametrize("verb", VERBS)
def test_help_imports_nothing_slow(verb):
    script = SCRIPT.replace("VERB", repr(verb))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    answer = json.loads(done.stdout)
    assert answer["code"] == 0 and answer["help"].startswith(f"usage: python -m jaxft {verb} ")
    slow = {"jax", "jaxlib", "flax", "optax", "orbax", "transformers", "tokenizers", "datasets", "torch"}
    assert not slow & set(answer["modules"])


def test_help_lists_the_verbs():
    done = subprocess.run(
        [sys.executable, "-m", "jaxft", "--help"], capture_output=True, text=True, check=True
    )
    assert all(verb in done.stdout for verb in VERBS)
