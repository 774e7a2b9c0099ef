"""Writes the sections of the model card of a model that predicts ratings."""

from jaxft.tasks.card_tables import Evaluations, Redact, list_metrics, make_score_rows, make_set_header
from jaxft.tasks.ratings.settings import Settings
from jaxft.tasks.run_facts import RunFacts

HUB_TASK = "text-classification"  # the hub's name of the task
HUB_TAGS = ["text-classification"]
HUB_METRICS = {"mae": ("mae", "mean absolute error")}  # the hub's name -> (key of the evaluation, text)


def describe_model(run: RunFacts[Settings], parameters: int) -> list[str]:
    """Returns lines that describe the model: a paragraph and the first items of a list."""
    highest = run.config.data.highest
    sentence = f"A {run.backbone_name} that rates texts from 1 to {highest}, fine-tuned with jaxft."
    return [f"{sentence} It has {parameters:,} parameters, float32.", ""]


def tabulate_scores(evaluations: Evaluations, redact: Redact) -> str:
    """Returns a table of each data set's scores."""
    rows = make_set_header("score", evaluations, redact)
    return "\n".join([*rows, *make_score_rows(evaluations, list_metrics(evaluations))])


def describe_usage(run: RunFacts[Settings]) -> str:
    """Shows how to rate texts with transformers."""
    return """```python
from transformers import pipeline

rate = pipeline("text-classification", model="PATH_OF_THIS_FOLDER", top_k=None, function_to_apply="sigmoid")
rating = 1 + sum(answer["score"] > 0.5 for answer in rate("..."))
```

"""
