"""A whole run on a tiny model: what it leaves and says, that it learns, when it stops, and what it keeps."""

import gzip
import json
import math

import pytest

import jaxft
from jaxft.training.loop import train
from jaxft.training.settings import load_settings


def rows(run, kind):
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["kind"] == kind]


@pytest.fixture(scope="module")
def main(command, tiny_flags, tmp_path_factory):
    """Runs the tiny run with further settings; gives its workdir and output."""

    def run(**settings):
        workdir = tmp_path_factory.mktemp("run")
        flags = [f"--config.{key.replace('__', '.')}={value}" for key, value in settings.items()]
        done = command("train", *tiny_flags, "--workdir", workdir, *flags)
        assert done.returncode == 0, done.stdout + done.stderr
        return workdir, done.stdout

    return run


def test_a_run_leaves_what_users_read(finished_run):
    summary = json.loads((finished_run / "summary.json").read_text())
    expected = "steps train_s compile_s compiles real_tokens_per_s padding_fraction input_stall_fraction peak_rss_bytes"
    assert {*expected.split(), "devices"} <= summary.keys()
    assert json.loads((finished_run / "versions.json").read_text())["jaxft"] == jaxft.__version__
    assert summary["steps"] == 100 and summary["late_compiles"] == 0
    for name in ("dev", "test"):
        assert summary[name]["entity_f1"] > 0.15  # labels by chance: under 0.03
        assert json.loads((finished_run / f"eval/{name}.json").read_text())["metrics"] == summary[name]
        assert (finished_run / f"predictions/{name}.conll").stat().st_size > 1000
    train, dev = rows(finished_run, "train"), rows(finished_run, "dev")
    assert [row["step"] for row in train] == list(range(4, 101, 4))
    assert [row["step"] for row in dev] == [20, 40, 60, 80, 100]
    keys = {
        "loss",
        "grad_norm",
        "lr",
        "epoch",
        "real_tokens_per_s",
        "padding_fraction",
        "input_stall_fraction",
    }
    assert all(keys <= row.keys() for row in train)
    assert train[0]["loss"] > 1.2 > 0.9 > train[-1]["loss"]
    assert max(row["lr"] for row in train) <= 0.01 and train[-1]["lr"] == pytest.approx(0.01 / 90, rel=1e-4)
    # The best weights are those measured at the end.
    best = max(dev, key=lambda row: row["entity_f1"])
    assert summary["best_step"] == best["step"]
    assert summary["dev"]["entity_f1"] == best["entity_f1"]
    assert [p.name for p in (finished_run / "best").iterdir()] == [str(best["step"])]
    assert sorted(p.name for p in (finished_run / "checkpoints").iterdir()) == ["100", "98"]


def test_a_profile_of_some_steps(command, tiny_flags, tmp_path):
    short = [*tiny_flags, "--workdir", tmp_path / "run", "--config.train.steps=8", "--config.data.test=none"]
    for steps, message in (
        ("5", "expected FROM:TO with FROM below TO, such as 20:25"),
        ("6:9", "the run goes from step 0 to 8; name steps between them"),
    ):
        done = command("train", *short, "--profile_steps", steps)
        assert done.returncode == 2 and f"error: --profile_steps {steps}: {message}" in done.stderr
    done = command("train", *short, "--profile_steps", "3:6")
    assert done.returncode == 0 and "profile: steps 3 to 5 into" in done.stdout, done.stderr
    [trace] = (tmp_path / "run/profile").glob("plugins/profile/*/*.xplane.pb")
    [events] = (tmp_path / "run/profile").glob("plugins/profile/*/perfetto_trace.json.gz")
    events = json.loads(gzip.decompress(events.read_bytes()))["traceEvents"]
    assert trace.stat().st_size > 10_000 and any("fusion" in event.get("name", "") for event in events)
    steps = [event["args"]["step_num"] for event in events if event.get("name") == "train"]
    assert steps == ["3", "4", "5"]  # by which profilers tell steps apart


def test_it_learns_what_can_be_learnt(main, tmp_path):
    """Tags that follow from the word: a model that trains gets them right. Written to TensorBoard as well."""
    words = {"ann": "B-PER", "york": "B-LOC", "lee": "I-PER", "the": "O", "of": "O", "to": "O", "in": "O"}
    lines = {name: [] for name in ("train", "dev")}
    names = list(words)
    for number in range(160):
        picked = [names[(number * 7 + i * (number % 5 + 1)) % 5 if i % 4 else number % 2] for i in range(8)]
        picked = [w if w != "lee" or i and picked[i - 1] == "ann" else "the" for i, w in enumerate(picked)]
        lines["train" if number < 120 else "dev"].append("".join(f"{w}\t{words[w]}\n" for w in picked))
    files = {name: tmp_path / f"{name}.conll" for name in lines}
    for name, path in files.items():
        path.write_text("\n".join(lines[name]))
    workdir, _ = main(
        data__train=files["train"],
        data__dev=files["dev"],
        data__test="none",
        log__tensorboard=True,
        eval__every_steps=50,
    )
    summary = json.loads((workdir / "summary.json").read_text())
    assert summary["dev"]["entity_f1"] > 0.95
    assert sum(p.stat().st_size for p in (workdir / "tensorboard").iterdir()) > 5000


def test_unpacked_rows_of_several_lengths_compile_ahead(main):
    workdir, output = main(
        data__pack=False, batch__rows=16, train__steps=30, eval__every_steps=10, eval__metric="loss"
    )
    summary = json.loads((workdir / "summary.json").read_text())
    assert summary["late_compiles"] == 0
    assert summary["compiles"] + summary["compile_cache_hits"] > 8  # more than one shape of each step
    assert "0 words unscored" in output
    assert_ending(workdir, output, summary)
    dev = rows(workdir, "dev")
    assert summary["best_step"] == min(dev, key=lambda row: row["loss"])["step"]  # a loss is minimised
    assert summary["dev"]["loss"] == pytest.approx(min(row["loss"] for row in dev))


def assert_ending(workdir, output, summary):
    """Checks that a screen holds the report of test and, last, the scores, their source and commands to paste."""
    lines = output.splitlines()
    lines = lines[1 + max(number for number, line in enumerate(lines) if "/30  dev: " in line) :]
    lines = [line for line in lines if not line.startswith("measuring")]
    assert len(lines) <= 40
    source, dev, test, _, predict, export, *_ = lines[-6:]
    assert (
        source == f"scores, with the weights of step {summary['best_step']} of 30, the best by loss on dev:"
    )
    assert dev.startswith(f"  dev: entity F1 {100 * summary['dev']['entity_f1']:.2f} ")
    assert test.startswith(f"  test: entity F1 {100 * summary['test']['entity_f1']:.2f} ")
    assert predict == f"  echo 'Anna Smith moved to Berlin .' | jaxft predict --run {workdir}"
    assert export == f"  jaxft export --run {workdir} --output {workdir}/export"
    for name in ("dev", "test"):  # the tables of both are in files
        assert "lenient" in (workdir / f"eval/{name}.txt").read_text()
    assert "lenient" not in output and "all tables: eval/test.txt" in output


def test_a_run_without_progress_stops_early_and_keeps_its_best(main):
    """With a rate that changes next to nothing, the first evaluation stays the best."""
    workdir, output = main(
        optim__lr=1e-12, eval__every_steps=5, eval__patience=3, checkpoint__every_steps=5, checkpoint__keep=3
    )
    assert "no better entity_f1 in 3 evaluations: stopping early" in output
    summary = json.loads((workdir / "summary.json").read_text())
    assert (summary["steps"], summary["best_step"]) == (20, 5)
    assert sorted(int(p.name) for p in (workdir / "checkpoints").iterdir()) == [10, 15, 20]
    assert [p.name for p in (workdir / "best").iterdir()] == ["5"]
    assert all(math.isfinite(row["loss"]) for row in rows(workdir, "train"))


def test_a_second_run_in_a_process_with_other_rates_and_seed_compiles_nothing(tiny_flags, tmp_path):
    short = ["--config.train.steps=4", "--config.eval.every_steps=4", "--config.eval.bootstrap=0"]
    other = [
        "optim.lr=0.3",
        "optim.weight_decay=0.2",
        "optim.clip=0",
        "seed=1",
        "train.steps=6",
        "optim.warmup=2",
    ]
    flags = [*tiny_flags[2:], *short]
    first, second = (
        train(load_settings(tiny_flags[1], flags + more), tmp_path / str(number))
        for number, more in enumerate(([], [f"--config.{setting}" for setting in other]))
    )
    assert first["compiles"] + first["compile_cache_hits"] > 0
    assert second["compiles"] == second["compile_cache_hits"] == second["late_compiles"] == 0
    assert second["dev"]["loss"] != first["dev"]["loss"] and second["steps"] == 6
