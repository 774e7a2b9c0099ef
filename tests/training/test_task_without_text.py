"""A task of points instead of text, whose model is a line: the same loop, checkpoints, resume and evaluation."""

import dataclasses
import json
from types import SimpleNamespace
from typing import ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest

from jaxft.data.batching.batch import BatchSpec
from jaxft.data.encoding.encoded import ArraySpec, Rows
from jaxft.errors import NonFiniteLoss
from jaxft.inference.evaluate import evaluate_run
from jaxft.io.files import write_json
from jaxft.layers.linear import Linear
from jaxft.models.pretrained_model import PretrainedModel
from jaxft.models.registry import FAMILIES
from jaxft.tasks.base import Evaluator, Task, TaskData
from jaxft.tasks.registry import TASKS, Entry
from jaxft.training.loop import train
from jaxft.training.settings import settings_from_config
from tests.interruption import arrays, assert_a_stopped_run_ends_bit_identically, newest

# ---- the task


class Point(NamedTuple):
    x: list[float]
    y: float


class Unprocessed:
    """The processor of a model that takes numbers as they are."""

    fingerprint = "unprocessed"

    def save_pretrained(self, folder):
        write_json(folder / "processor.json", {})


@dataclasses.dataclass(frozen=True)
class LineConfig:
    model_type: ClassVar[str] = "line"
    hidden_size: int = 2
    num_layers: int = 0
    num_heads: int = 1
    attention_dropout: float = 0.0
    vocab_size: int = 0
    attention_features: ClassVar[frozenset] = frozenset()

    def count_positions(self, length):
        return length

    @classmethod
    def from_hf(cls, hf_config):
        return cls()


class Points(TaskData[Point, Rows, Unprocessed]):
    example_input = "[[1, 2], 3]"

    def __init__(self, config):
        self.config = config

    def read(self, name, source, log):
        return [Point(*json.loads(line)) for line in open(source)]

    def open_model(self, train):
        return PretrainedModel("line", None, {"model_type": "line"}, Unprocessed())

    def load_processor(self, folder):
        return Unprocessed()

    def encode(self, points, labels, processor, *, only=None, cached=True):
        x, y = (np.array([getattr(point, name) for point in points], np.float32) for name in Point._fields)
        return Rows({"x": x, "y": y, "weights": np.ones(len(points), np.float32)})


class Line(Task):
    number = ArraySpec(np.float32, "row")
    batch_spec = BatchSpec(
        {"x": number._replace(shape=(2,)), "y": number, "weights": number},
        row_length=1,
        unit="point",
        unit_mask="weights",
    )

    def __init__(self, labels, config, head_dropout):
        self.labels = labels

    def build_model(self, model_config, runtime, rngs):
        return Linear(model_config.hidden_size, 1, initializer_range=0.1, rngs=rngs)

    def loss(self, model, batch, dropout):
        errors = model(batch["x"])[:, 0] - batch["y"]
        return jnp.sum(batch["weights"] * errors**2), jnp.sum(batch["weights"])

    def predict(self, model, batch):
        return {"y": model(batch["x"])[:, 0]}, *self.loss(model, batch, None)


class LineEvaluator(Evaluator[Point, Rows, np.ndarray, SimpleNamespace]):
    selection_metric = "loss"

    def __init__(self, labels, config):
        self.tuned = {}

    def collect(self, split, outputs):
        predictions = np.full(len(split.examples), np.nan)
        for batch, outputs_of_batch in outputs:
            [numbers] = batch.windows.T
            predictions[numbers[numbers >= 0]] = outputs_of_batch["y"][numbers >= 0]
        return predictions

    def measure(self, split, predictions, loss_sum, weight_sum):
        errors = predictions - [point.y for point in split.examples]
        assert np.mean(errors**2) == pytest.approx(loss_sum / weight_sum, rel=1e-4, abs=1e-9)
        return SimpleNamespace(compute=lambda: {"loss": loss_sum / weight_sum})

    def metric_names(self, split):
        return ["loss"]

    def summarize(self, values):
        return f"loss {values['loss']:.4f}"

    def write_evaluation(self, folder, split, state, predictions, **options):
        metrics = state.compute()
        write_json(folder / "eval" / f"{split.name}.json", {"data": split.source, "metrics": metrics})
        return metrics


# ---- its run


@pytest.fixture
def settings(monkeypatch, tmp_path):
    entry = Entry(
        settings="jaxft.config.sections:Settings",
        data=f"{__name__}:Points",
        task=f"{__name__}:Line",
        evaluator=f"{__name__}:LineEvaluator",
        answers="none",
    )
    monkeypatch.setitem(TASKS, "line", entry)
    monkeypatch.setitem(
        FAMILIES,
        "line",
        SimpleNamespace(
            config_class=LineConfig,
            heads={entry.head: SimpleNamespace(read_dropout=None)},
        ),
    )
    values = {"task": "line", "model.init": "scratch", "batch.rows": 8, "batch.accumulate": 2, "eval.rows": 8}
    values |= {"train.epochs": 10, "optim.lr": 0.2, "optim.weight_decay": 0.0, "log.tensorboard": False}
    rng = np.random.default_rng(0)
    for name, count in (("train", 45), ("dev", 11)):
        path = tmp_path / f"{name}.jsonl"
        x = rng.normal(size=(count, 2))
        path.write_text("".join(json.dumps([row.tolist(), row @ [3, -2] + 1]) + "\n" for row in x))
        values[f"data.{name}"] = str(path)
    return values


def test_a_line_is_learned_and_a_run_that_was_stopped_ends_bit_identically(
    settings, tmp_path, monkeypatch, capsys
):
    config, folder = settings_from_config(settings), tmp_path / "run"
    summary = train(config, folder)
    assert summary["steps"] == 60 and summary["dev"]["loss"] < 0.01
    assert summary["padding_fraction"] == pytest.approx(3 / 48)  # the last step of an epoch
    assert summary["real_points_per_s"] > 0 and summary["train_flops_per_point"] == 12
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    [first, *_] = (line for line in lines if line["kind"] == "train")
    assert {"real_points_per_s", "padding_fraction", "loss"} <= first.keys()
    assert "points/s" in capsys.readouterr().out
    best = arrays(newest(folder / "best"))
    np.testing.assert_allclose(best["['kernel']"][:, 0], [3, -2], atol=0.1)
    np.testing.assert_allclose(best["['bias']"], [1], atol=0.1)
    assert_a_stopped_run_ends_bit_identically(config, folder, tmp_path / "stopped", monkeypatch, at=20)
    assert evaluate_run(folder, settings["data.dev"])["loss"] == pytest.approx(
        summary["dev"]["loss"], rel=1e-5
    )


def test_a_batch_of_any_arrays_is_kept_if_its_loss_is_not_finite(settings, tmp_path):
    with open(settings["data.train"], "a") as file:
        file.write("[[1e30, 0], 0]\n")
    with pytest.raises(NonFiniteLoss, match="the batch is in"):
        train(settings_from_config(settings), tmp_path / "run")
    [path] = (tmp_path / "run").glob("non_finite_step_*.npz")
    with np.load(path) as saved:
        assert saved["x"].shape == (8, 2) and saved["x"].max() > 1e29 and 45 in saved["windows"]


def test_the_contract_of_a_task_is_small():
    members = {name for name in (*Task.__annotations__, *vars(Task)) if not name.startswith("_")}
    assert len(members) <= 10, sorted(members)
