"""Measures predictions for texts with a number each, as a mergeable state."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(slots=True)
class RegressionState:
    """Gold and predicted numbers in the data's units. Merged states give the same metrics as a single state."""

    gold: list[float] = dataclasses.field(default_factory=list)
    predicted: list[float] = dataclasses.field(default_factory=list)
    loss_sums: list[float] = dataclasses.field(default_factory=list)
    weight_sums: list[float] = dataclasses.field(default_factory=list)

    def update(
        self,
        gold: Sequence[float] | np.ndarray,
        predicted: Sequence[float] | np.ndarray,
        loss_sum: float = 0.0,
        weight_sum: float = 0.0,
    ) -> None:
        """Adds examples, and the loss of a batch as sum and weight."""
        if len(gold) != len(predicted):
            raise ValueError(f"{len(gold)} gold numbers but {len(predicted)} predicted ones")
        self.gold += map(float, gold)
        self.predicted += map(float, predicted)
        self.loss_sums.append(float(loss_sum))
        self.weight_sums.append(float(weight_sum))

    def merge(self, other: "RegressionState") -> None:
        """Adds another state to this one."""
        for field in dataclasses.fields(self):
            getattr(self, field.name).extend(getattr(other, field.name))

    def compute(self) -> dict[str, float]:
        """Returns the metrics by name.

        The names are `mse`, `rmse` and `mae` (in the data's units), `pearson`, `spearman`, `r2`, `examples` (number of
        examples) and, if any weight was added, `loss` (on scaled labels). Correlations are 0 if gold or predictions are
        constant.
        """
        from scipy import stats
        from sklearn import metrics  # slow to import

        gold, predicted = np.array(self.gold), np.array(self.predicted)
        values: dict[str, float] = {}
        if weight := math.fsum(self.weight_sums):
            values["loss"] = math.fsum(self.loss_sums) / weight
        mse = float(metrics.mean_squared_error(gold, predicted))
        values |= {"mse": mse, "rmse": math.sqrt(mse)}
        values["mae"] = float(metrics.mean_absolute_error(gold, predicted))
        is_varied = len(gold) > 1 and np.ptp(gold) > 0 and np.ptp(predicted) > 0
        values["pearson"] = float(stats.pearsonr(gold, predicted).statistic) if is_varied else 0.0
        values["spearman"] = float(stats.spearmanr(gold, predicted).statistic) if is_varied else 0.0
        values["r2"] = float(metrics.r2_score(gold, predicted)) if len(gold) > 1 else 0.0
        return values | {"examples": float(len(gold))}
