"""Tasks: what is encoded, predicted, lost and measured."""

from jaxft.tasks import token_classification

TASKS = {"token_classification": token_classification}  # by config.task
