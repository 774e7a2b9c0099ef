"""The benchmark of adapters measures what its record lacks, and prints tables of all that is there."""

import json
import sys

import pytest

from tests.conftest import REPOSITORY


@pytest.fixture
def benchmark(monkeypatch, tmp_path):
    """Runs the command with flags, whose runs only write down what they would train; returns their settings."""
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    import adapters

    monkeypatch.setattr(adapters, "write_few", lambda data, folder: (folder / "texts", folder / "words"))
    runs = []

    def run_jaxft(recipe, settings, workdir):
        runs.append(settings)
        log = "34 parameters, 17 of\nthem trained; a step: 1.5 GFLOP,\n1,200 MiB; ready"
        metric = "entity_f1" if recipe.startswith("ner") else "accuracy"
        for folder, name in (("eval", "dev.json"), ("best", "weights")):
            (workdir / folder).mkdir(parents=True)
            (workdir / folder / name).write_text(json.dumps({"intervals": {metric: [0.25, 0.75]}}))
        score = 0.5 + settings["seed"] / 10
        speed = {"steps": 8, "train_s": 2.0, "real_tokens_per_s": 300.0, "late_compiles": 0}
        return speed | {"log": log, "dev": {metric: score}}

    monkeypatch.setattr(adapters, "run_jaxft", run_jaxft)
    monkeypatch.setattr(
        adapters, "run_peer", lambda *_: {"real_tokens_per_s": 150.0, "trained": 1, "peak_rss_mb": 2}
    )

    def run(*flags):
        runs.clear()
        paths = ("--data", tmp_path, "--record", tmp_path / "record.jsonl")
        monkeypatch.setattr(sys, "argv", ["adapters.py", *map(str, (*paths, *flags))])
        adapters.main()
        return list(runs)

    return run


def test_only_runs_that_are_not_recorded_are_made(benchmark, capsys):
    flags = ["--part", "quality", "--methods", "full", "lora", "bitfit"]
    assert len(benchmark(*flags, "--seeds", 0)) == 5  # one of BitFit, which has no run on Banking77
    runs = benchmark(*flags, "--seeds", 0, 1, "--rates", "bitfit=0.5")
    assert [run.get("adapter.method", "none") for run in runs] == ["bitfit", "none", "lora", "none", "lora"]
    assert runs[0]["optim.lr"] == 0.5 and "optim.lr" not in runs[1] and runs[1]["seed"] == 1
    capsys.readouterr()
    assert benchmark(*flags, "--seeds", 0, 1) == []
    table = capsys.readouterr().out
    assert "| lora | 55.0 | 50.0, 60.0 | 25.0–75.0 | 50.00% | 250 ms | 1,200 MiB | 0.0 MiB |" in table
    assert table.count("| bitfit | 50.0 | 50.0 |") == 1


def test_sides_run_in_turns(benchmark, capsys):
    assert len(benchmark("--part", "trainer", "--repeats", 2)) == 2
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["ratios"] == [2.0, 2.0] and result["tokens_per_s"]["peft"] == [150.0, 150.0]
