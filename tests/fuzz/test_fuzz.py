"""A short run of the fuzzer finds nothing; `python -m tests.fuzz --seconds 3600` tries for an hour."""

import json
import pathlib
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]


def test_damage_is_read_rightly_or_refused(environment, python, tmp_path):
    command = [*python, "-m", "tests.fuzz", "--seconds", "5", "--folder", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    *figures, total = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, done.stderr
    assert len(figures) == 10 and all(target["tried"] >= 5 for target in figures)
    assert total["failed"] == 0 and total["survived"] == total["tried"]
    assert total["refused"] > total["tried"] / 5  # the damage is worth the name
