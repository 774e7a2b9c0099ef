"""Settings that change how a run begins, what it learns from and what it moves, each through a whole run."""

import json
import re
import shutil

import fsspec
import numpy as np
import orbax.checkpoint as ocp
import pytest

from jaxft.data.batching.loader import Loader
from jaxft.errors import UserError
from jaxft.export.writer import export_run
from jaxft.models.pretrained_model import resolve_model
from jaxft.parallel.mesh import make_mesh
from jaxft.tasks.registry import make_data, make_task
from jaxft.training import loop as train
from jaxft.training.network import initial_parameters, make_network
from jaxft.training.prepare import describe_base_model
from jaxft.training.run_folder.base_run import open_base_run
from jaxft.training.run_folder.remote_folder import FILE_LIST
from jaxft.training.settings import load_settings, settings_from_config

SHORT = {"train.steps": 8, "eval.every_steps": 8, "checkpoint.every_steps": 8, "eval.bootstrap": 0}


@pytest.fixture
def run(tiny_flags, tmp_path, capsys):
    """A short tiny run in this process with further settings: (summary, rows of metrics.jsonl, output)."""

    def start(name="run", **values):
        values = SHORT | {key.replace("__", "."): value for key, value in values.items()}
        flags = [f"--config.{key}={value}" for key, value in values.items()]
        summary = train.train(load_settings(tiny_flags[1], [*tiny_flags[2:], *flags]), tmp_path / name)
        rows = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        assert summary["late_compiles"] == 0
        return summary, rows, capsys.readouterr().out

    return start


def weights(folder) -> dict[str, np.ndarray]:
    """The best parameters of a run by path, read without the code under test."""
    with ocp.CheckpointManager(folder / "best", options=ocp.CheckpointManagerOptions(read_only=True)) as best:
        state = best.restore(
            best.latest_step(), args=ocp.args.Composite(state=ocp.args.StandardRestore())
        ).state
    return {name: np.asarray(value) for name, value in state.items()}


def test_from_scratch_with_the_start_told_and_the_share_of_the_peak(run, monkeypatch, tmp_path):
    """On a device whose peak is known the share is model FLOPs a second over it, of what the last layer computes."""
    monkeypatch.setattr(train, "peak_flops", lambda device: 1e12)
    summary, rows, output = run(model__init="scratch")
    assert re.search(r"all \d+ parameters newly initialized \(config.model.init=scratch\)", output)
    assert re.search(
        r"compiled in .* s \(.* from the cache\); a step of 4 x 64: .* GFLOP, [\d,]+ MiB; ready [\d.]+ s after start",
        output,
    )
    new = weights(tmp_path / "run")
    all_flops = (
        6 * sum(value.size for name, value in new.items() if name.endswith("kernel")) + 12 * 2 * 64 * 32
    )
    flops = summary["train_flops_per_token"]
    after_attention = 6 * (32 * 32 + 2 * 32 * 64)
    # Some subwords have no label.
    assert all_flops - 0.6 * after_attention < flops < all_flops - 0.1 * after_attention
    for row in (row for row in rows if row["kind"] == "train"):
        assert row["mfu"] == pytest.approx(flops * row["real_tokens_per_s"] / 1e12)
    assert re.search(r"step 8/8  loss .*  MFU \d+\.\d%", output)
    assert new["backbone/embeddings/word/embedding"].std() == pytest.approx(
        0.1, rel=0.1
    )  # the checkpoint's initializer_range, not its weights


@pytest.mark.parametrize("start", ["init_from", "model.checkpoint"])
def test_from_another_runs_best_weights(run, finished_run, start):
    """With a rate that changes nothing, the first evaluation is that run's, whose head has the same labels."""
    address = {"init_from": str(finished_run), "model.checkpoint": f"run:{finished_run}"}[start]
    summary, _, output = run(**{start: address, "optim__lr": 1e-20})
    line = {"init_from": f"weights: {finished_run}", "model.checkpoint": "head is kept, for it has the same"}
    assert line[start] in output
    want = json.loads((finished_run / "summary.json").read_text())
    for name in ("dev", "test"):
        assert summary[name]["entity_f1"] == want[name]["entity_f1"]
        assert summary[name]["loss"] == pytest.approx(want[name]["loss"], rel=1e-6)


@pytest.mark.sweep
def test_a_run_starts_from_one_whose_head_no_checkpoint_has(run, tmp_path):
    """A checkpoint has no transitions of a CRF, like an export."""
    run("first", model__crf=True)
    _, _, output = run(model__checkpoint=f"run:{tmp_path / 'first'}")
    assert "head is kept, for it has the same" in output


def test_a_run_of_another_task_starts_from_a_runs_backbone(finished_run, tmp_path):
    """The weights are those that the run's export would have, also from a store; the head and the pooler are new."""
    store = fsspec.filesystem("memory")
    store.put(str(finished_run), "/bucket/run", recursive=True)
    [step] = (finished_run / "best").glob("[0-9]*")
    files = [str(path.relative_to(step)) for path in step.rglob("*") if path.is_file()]
    store.pipe_file(f"/bucket/run/best/{step.name}/{FILE_LIST}", json.dumps(files).encode())
    export_run(finished_run, tmp_path / "export")
    addresses = (str(tmp_path / "export"), f"run:{finished_run}", "run:memory://bucket/run")
    started, checksums = [], set()
    for address in addresses:
        config = settings_from_config(
            {"task": "sequence_classification", "model.checkpoint": address, "data.max_length": 32}
        )
        model = make_data(config).open_model(())
        if address.startswith("run:"):
            model = open_base_run(model, print)
            checksums.add(model.reader.checksum())
        task = make_task(["no", "yes"], config, head_dropout=0.0)
        net = make_network(task, *resolve_model(config, model.hf_config), make_mesh(config))
        assert describe_base_model(config)["vocab_size"] == model.hf_config["vocab_size"]
        started.append(initial_parameters(net, config, model))
    assert len(checksums) == 1
    best = weights(finished_run)
    for parameters, line in started:
        assert (
            "newly initialized: backbone/pooler/bias, backbone/pooler/kernel, head/bias, head/kernel;" in line
        )
        assert (
            "not used: classifier.bias, classifier.weight" in line
            and "the checkpoint's head is for O, " in line
        )
        for name, value in parameters.items():
            expected = best[name] if name in best and name.startswith("backbone/") else started[0][0][name]
            np.testing.assert_array_equal(value, expected, err_msg=name)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"model.checkpoint": "run:nowhere"},
            "no jaxft run there (no nowhere/model/config.json); name the --workdir",
        ),
        (
            {"model.checkpoint": "run:x", "model.revision": "main"},
            "checkpoint 'run:x' is a run; a revision belongs to",
        ),
        ({"model.checkpoint": "PICKLED"}, "found only pytorch_model.bin."),
    ],
)
def test_checkpoints_that_cannot_start_a_run_are_named_before_data_is_encoded(
    values, message, tiny_bert, tmp_path
):
    shutil.copytree(tiny_bert, tmp_path / "pickled")
    (tmp_path / "pickled/model.safetensors").rename(tmp_path / "pickled/pytorch_model.bin")
    values = {name: value.replace("PICKLED", str(tmp_path / "pickled")) for name, value in values.items()}
    config = settings_from_config({"task": "sequence_classification", "data.max_length": 32} | values)
    with pytest.raises(UserError, match=re.escape(message)):
        make_data(config).open_model(())


def test_all_subwords_labelled_and_rates_by_path(run, monkeypatch, tmp_path):
    """More positions are learnt from, words are scored as ever, and a rate of 0 leaves parameters as they were."""
    learnt = {}

    def place(arrays, mesh, original=train.place_batch):
        learnt[case] += int(arrays["weights"].sum())
        return original(arrays, mesh)

    monkeypatch.setattr(train, "place_batch", place)
    words, multipliers = {}, "(('^backbone/embeddings/', 0.0), ('.', 1.0))"
    for case in ("first", "all"):
        learnt[case] = 0
        summary, _, output = run(
            case, data__label_subwords=case, data__test="none", optim__lr_multipliers=multipliers
        )
        words[case] = summary["dev"]["token_support"]
        assert "dev: " in output and ", 0 words unscored" in output
    assert learnt["all"] > 1.05 * learnt["first"] > 0
    assert words["all"] == words["first"]
    first_weights, all_weights = weights(tmp_path / "first"), weights(tmp_path / "all")
    for name in first_weights:
        assert np.array_equal(first_weights[name], all_weights[name]) == name.startswith(
            "backbone/embeddings/"
        ), name


def test_frozen_and_averaged_weights_go_on_to_the_same_end(run, monkeypatch, tmp_path):
    """A run that breaks off and goes on equals one that does not: the average is part of what is saved."""
    options = {
        "optim__freeze": "('^backbone/embeddings/', '^backbone/layers/attention/')",
        "optim__ema": 0.9,
        "eval__every_steps": 2,
        "checkpoint__every_steps": 3,
    }
    undisturbed, rows, output = run("whole", **options)
    trained = int(re.search(r"parameters, ([\d,]+) of them trained", output)[1].replace(",", ""))
    best = weights(tmp_path / "whole")
    frozen = [name for name in best if re.match(r"backbone/embeddings/|backbone/layers/attention/", name)]
    assert trained == sum(value.size for name, value in best.items() if name not in frozen)

    def broken(self, step, original=Loader.batch):
        if step == 5:
            raise RuntimeError("broken off")
        return original(self, step)

    with monkeypatch.context() as patched:
        patched.setattr(Loader, "batch", broken)
        with pytest.raises(RuntimeError, match="broken off"):
            run("broken", **options)
    resumed, resumed_rows, output = run("broken", **options)
    assert "going on at step 3 of 8" in output
    clocks = {"real_tokens_per_s", "input_stall_fraction"}
    assert [{k: v for k, v in row.items() if k not in clocks} for row in resumed_rows] == [
        {k: v for k, v in row.items() if k not in clocks} for row in rows
    ]
    assert (resumed["dev"], resumed["test"]) == (undisturbed["dev"], undisturbed["test"])
    other = weights(tmp_path / "broken")
    assert [name for name in best if best[name].tobytes() != other[name].tobytes()] == []
    plain, _, _ = run("plain", **options | {"optim__ema": 0.0})
    moved = weights(tmp_path / "plain")
    assert plain["dev"]["loss"] != undisturbed["dev"]["loss"]  # the average is what is measured
    assert [name for name in best if np.array_equal(best[name], moved[name])] == frozen


def test_a_mesh_that_cannot_be_is_told_before_data_is_read(run):
    with pytest.raises(UserError, match=r"config.mesh=.*: 3 doesn't divide \d devices?, so that"):
        run(**{"data.train": "nowhere.conll", "mesh.fsdp": 3})
