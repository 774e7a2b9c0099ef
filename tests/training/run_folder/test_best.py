"""The metric that chooses the best weights, and the step that they are of."""

import jax
import jax.numpy as jnp
import pytest

from jaxft.config.settings import replace
from jaxft.errors import UserError
from jaxft.training.run_folder.best import BestTracker, choose_selection_metric, is_better, read_best
from jaxft.training.run_folder.checkpoint import RunCheckpoints
from jaxft.training.settings import settings_from_config


@pytest.mark.parametrize(
    ("metric", "less"),
    [("loss", True), ("accuracy", False), ("topic/loss", True), ("f1/loss", False), ("topic/f1/loss", False)]
    + [("sts/mse + topic/loss", True), ("sts/pearson+topic/f1/mae", False)],
)
def test_which_way_a_metric_is_better(metric, less):
    config = settings_from_config({"task": "token_classification", "eval.metric": metric})
    assert choose_selection_metric(config, None, [metric]) == metric
    assert is_better(metric, 1.0, 2.0) == less and is_better(metric, 2.0, 1.0) == (not less)
    config = replace(config, {"eval.metric": f"{metric}+{'topic/accuracy' if less else 'sts/mse'}"})
    with pytest.raises(UserError, match="adds up what should grow and what should shrink"):
        choose_selection_metric(config, None, [config.eval.metric])


def test_loaded_weights_bring_their_step(tmp_path):
    """A run is killed after it saved better weights, goes on from the checkpoint before, and ends before their step."""
    weights = {"head/bias": jnp.arange(3.0)}
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    abstract = {"head/bias": jax.ShapeDtypeStruct((3,), jnp.float32, sharding=place)}
    checkpoints = RunCheckpoints(tmp_path / "best", keep=1, log=print)
    killed = BestTracker(checkpoints, "accuracy", None, ["a"], ["head/bias"], None, {})
    killed.keep_if_better(2, weights, {"accuracy": 0.5})
    progress = killed.progress()
    killed.keep_if_better(5, {"head/bias": weights["head/bias"] + 1}, {"accuracy": 0.75})
    resumed = BestTracker(checkpoints, "accuracy", None, ["a"], ["head/bias"], None, progress)
    assert resumed.step == 2 and not resumed.is_saved()
    assert resumed.load(tmp_path, abstract, print)["head/bias"].tolist() == [1, 2, 3]
    assert resumed.step == 5 and resumed.is_saved()
    checkpoints.close()


def test_an_adapter_in_place_of_a_run_is_named(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(
        UserError, match="found an adapter in PEFT's files; give it as config.adapter.init_from"
    ):
        read_best(tmp_path)
