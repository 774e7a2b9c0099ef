"""Tasks: what is encoded, predicted, lost and measured."""

from jaxft.tasks.base import Task
from jaxft.tasks.token_classification import TokenClassification

TASKS: dict[str, type[Task]] = {"token_classification": TokenClassification}  # by config.task
