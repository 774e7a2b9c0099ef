"""A short run of the fuzzer finds nothing; `python -m tests.fuzz --seconds 3600` tries for an hour."""

import json
import pathlib
import random
import subprocess

import pytest

from jaxft.errors import UserError
from tests.fuzz import targets
from tests.fuzz.samples import write_samples

ROOT = pathlib.Path(__file__).resolve().parents[2]


def test_damage_is_read_rightly_or_refused(environment, python, tmp_path):
    command = [*python, "-m", "tests.fuzz", "--seconds", "5", "--folder", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    *figures, total = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, done.stderr
    assert len(figures) == 11 and all(target["tried"] >= 5 for target in figures)
    assert total["failed"] == 0 and total["survived"] == total["tried"]
    assert total["refused"] > total["tried"] / 5  # the damage is worth the name


def test_what_is_not_damaged_is_read(tmp_path, monkeypatch):
    """Else a target would refuse everything, and find nothing."""
    monkeypatch.setattr(targets, "damage", lambda content, rng: content)
    rng = random.Random(0)
    for task, samples in write_samples(tmp_path / "samples").items():
        for sample in samples:
            try:
                targets.read_data(task, [sample])(rng, tmp_path)
            except UserError as error:
                pytest.fail(f"{sample.name}: {error}")
