"""The metric that chooses the best weights."""

import pytest

from jaxft.config.settings import replace
from jaxft.errors import UserError
from jaxft.training.run_folder.best import choose_selection_metric, is_better
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
