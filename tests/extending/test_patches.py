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


def copy_project(folder):
    """Copies what an example and its tests need of the project."""
    ignore = shutil.ignore_patterns("*.pyc.*")  # files that Python is writing, in other tests
    for name in ("jaxft", "tests", "configs", "docs/extending"):
        shutil.copytree(REPOSITORY / name, folder / name, symlinks=True, ignore=ignore)
    shutil.copy(REPOSITORY / "pyproject.toml", folder)


def commands_of_the_page(name):
    """Returns the commands that apply an example, and those that test it."""
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    [lines] = [block.splitlines() for block in blocks if f"docs/extending/{name}/" in block]
    return lines[:2], lines[2:]


def run(commands, folder, environment):
    """Runs commands in a copy of the project."""
    paths = {
        "PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}",
        "PYTHONPATH": str(folder),
        "GIT_CEILING_DIRECTORIES": str(folder.parent),  # git must not find a repository around the copy
    }
    bash = ["bash", "-e", "-c", "\n".join(commands)]
    done = subprocess.run(bash, cwd=folder, env=environment | paths, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-10000:] + done.stderr[-3000:]


@each_example
def test_the_commands_of_the_page_apply_an_example_and_pass_its_tests(name, environment, tmp_path):
    copy_project(tmp_path)
    apply, test = commands_of_the_page(name)
    run([*apply, *test], tmp_path, environment)


def test_all_examples_keep_the_order_of_layers(environment, tmp_path):
    copy_project(tmp_path)
    apply = [command for name in EXAMPLES for command in commands_of_the_page(name)[0]]
    run([*apply, "python -m pytest -n 0 tests/test_architecture.py"], tmp_path, environment)
