"""The wheel brings the command and the recipes: installed outside the checkout, it trains in any folder."""

import email
import json
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile

from packaging.metadata import Metadata

import jaxft
from tests.conftest import REPOSITORY

BUILD = """
import sys
from setuptools import build_meta
folder = sys.argv[1]
build_meta.build_sdist(folder)
build_meta.build_wheel(folder)  # both change sys.argv
"""
RECIPES = {f"jaxft/recipes/{path.name}" for path in (REPOSITORY / "configs").glob("*.py")}


def test_the_wheel_trains_outside_the_checkout(tmp_path, tiny_flags, environment):
    source, built, folder = tmp_path / "source", tmp_path / "built", tmp_path / "elsewhere"
    for path in (built, folder):
        path.mkdir()
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("jaxft", "configs"):
        shutil.copytree(REPOSITORY / name, source / name, symlinks=True, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)

    def run(*command, **options):
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, **options)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run(sys.executable, "-c", BUILD, built, cwd=source)
    [wheel], [archive] = built.glob("*.whl"), built.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as file:
        assert RECIPES | {"jaxft/py.typed"} <= set(file.namelist())
        [name] = [name for name in file.namelist() if name.endswith(".dist-info/METADATA")]
        text = file.read(name)
    metadata = Metadata.from_email(text, validate=True)
    assert str(metadata.version) == jaxft.__version__ and metadata.description_content_type == "text/markdown"
    assert email.message_from_bytes(text)["License-Expression"] == "Apache-2.0"
    with tarfile.open(archive) as file:
        assert RECIPES <= {member.partition("/")[2] for member in file.getnames()}

    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv")
    python = tmp_path / "venv/bin/python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index"]
    run(*pip, wheel, cwd=folder)
    packages = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    with open(f"{packages}/dependencies.pth", "w") as file:
        print(sysconfig.get_path("purelib"), file=file)

    outside = {key: value for key, value in environment.items() if key != "PYTHONPATH"}
    jaxft_command = tmp_path / "venv/bin/jaxft"
    assert run(jaxft_command, "--version", env=outside, cwd=folder) == f"jaxft {jaxft.__version__}\n"
    flags = ["--config", "ner", *tiny_flags[2:], "--config.train.steps=10", "--config.data.test=none"]
    output = run(jaxft_command, "train", *flags, env=outside, cwd=folder)
    assert "jaxft predict --run runs/ner" in output
    assert json.loads((folder / "runs/ner/summary.json").read_text())["steps"] == 10
