"""Names the curves of a run's metrics on TensorBoard and W&B, so that the main groups stay short."""

import re

# Endings of metrics that exist for each label.
OF_LABELS = ("precision", "recall", "f1", "support", "threshold", "predicted")

# Metrics that explain others: counts, which hardly change, and averages next to the usual one.
_DETAIL = re.compile(r"(_support|_predicted|_weighted|(precision|recall)_macro|(^|/)examples)$")


def is_of_label(metric: str) -> bool:
    """Returns whether a metric is that of one label, such as "entity_f1/PER" or "topic/f1/sports"."""
    *prefixes, _ = metric.strip().split("/")
    return "+" not in metric and any(prefix.endswith(OF_LABELS) for prefix in prefixes)


def tag_of(kind: str, metric: str) -> str:
    """Returns the tag of a curve. Its first component is the group in which the curve is shown.

    Args:
      kind: "train" or the name of a split, which names the main group.
      metric: the metric's name. Metrics of a label, and counts and lesser averages, have groups of their own.
    """
    if is_of_label(metric):
        return f"{kind}_by_label/{metric}"
    return f"{kind}_details/{metric}" if _DETAIL.search(metric) else f"{kind}/{metric}"
