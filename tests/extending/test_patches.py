"""The examples of docs/extending.md add files and an entry of a registry; copies with them pass their tests."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY

PAGE = REPOSITORY / "docs" / "extending.md"
EXAMPLES = {path.name: path for path in sorted((REPOSITORY / "docs" / "extending").iterdir())}
# The tests of the project that know families and tasks.
LAYERING = [
    f"tests/test_architecture.py::{test}"
    for test in (
        "test_order_of_layers",
        "test_siblings_do_not_know_each_other",
        "test_only_its_folder_and_the_registries_name_a_task_or_a_family",
    )
]
each_example = pytest.mark.parametrize("name", EXAMPLES)


@each_example
def test_an_example_adds_files_and_an_entry(name):
    new_files = [path.relative_to(EXAMPLES[name]) for path in EXAMPLES[name].rglob("*.py")]
    assert new_files and not [path for path in new_files if (REPOSITORY / path).exists()]
    changes = (EXAMPLES[name] / "registry.patch").read_text()
    assert not re.findall(r"^-(?!--)", changes, re.MULTILINE)  # nothing is removed
    assert len(re.findall(r"^@@", changes, re.MULTILINE)) == {"head": 2}.get(name, 1)
    # The page shows every file.
    shown = re.findall(rf"^```{{literalinclude}} extending/{name}/(\S+)", PAGE.read_text(), re.MULTILINE)
    assert sorted(shown) == sorted(["registry.patch", *map(str, new_files)])


def test_the_commands_of_the_page_apply_the_examples_and_pass_their_tests(environment, tmp_path):
    """All in one copy and one process, which imports torch and jax once. The order of layers holds there too."""
    ignore = shutil.ignore_patterns("*.pyc.*")  # files that Python is writing, in other tests
    for name in ("jaxft", "tests", "configs", "docs/extending"):
        shutil.copytree(REPOSITORY / name, tmp_path / name, symlinks=True, ignore=ignore)
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    applying, testing = [], ["python -m pytest -n 0"]
    for copy_files, apply_patch, test in map(str.splitlines, blocks):
        applying += [copy_files, apply_patch]
        testing.append(test.removeprefix(testing[0]))
    assert len(blocks) == len(EXAMPLES)
    script = "\n".join([*applying, " ".join([*testing, *LAYERING])])
    paths = {
        "PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}",
        "PYTHONPATH": str(tmp_path),
        "GIT_CEILING_DIRECTORIES": str(tmp_path.parent),  # git must not find a repository around the copy
    }
    bash = ["bash", "-e", "-c", script]
    done = subprocess.run(bash, cwd=tmp_path, env=environment | paths, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-10000:] + done.stderr[-3000:]
