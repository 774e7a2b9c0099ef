"""The settings of each of several tasks: those of the run under what `config.tasks` says of the task."""

import functools
from typing import Any

from ml_collections import ConfigDict

from jaxft.config import loading as settings
from jaxft.errors import UserError
from jaxft.tasks.base import Task
from jaxft.tasks.sequence_classification.task import SequenceClassification
from jaxft.tasks.token_classification.crf import CRFTagging
from jaxft.tasks.token_classification.task import TokenClassification

KINDS: dict[str, type[Task]] = {  # what can share a backbone
    "token_classification": TokenClassification,
    "crf_tagging": CRFTagging,
    "sequence_classification": SequenceClassification,
}
# Settings that a task may have of its own; rows, backbone and optimizer are shared.
OWN = (
    "task model.problem_type model.pool model.constraints eval.thresholds data.format data.word_column "
    "data.tag_column data.columns data.text data.text_pair data.label data.label_separator data.label_range "
    "data.scheme data.overlaps loss.weight loss.label_smoothing loss.r_drop loss.focal_gamma loss.class_weights"
).split()
# Settings that only several tasks together have.
SHARED_ONLY = (
    "task tasks batch.by_task data.mix data.mix_temperature data.mix_weights loss.balance eval.metric".split()
)


def make_task_configs(config: ConfigDict) -> dict[str, ConfigDict]:
    """The settings of each task, by name. Raises `UserError` for what cannot be a task's own."""
    shared = tuple((key, value) for key, value in settings.flat(config).items() if key not in SHARED_ONLY)
    return {name: _of_task(shared, name, own) for name, own in config.tasks}


@functools.cache
def _of_task(shared: tuple[tuple[str, Any], ...], name: str, own: tuple[tuple[str, Any], ...]) -> ConfigDict:
    where = f"config.tasks, {name}"
    for key, _ in own:
        if key not in OWN and key in settings.flat(settings.base()):
            raise UserError(f"{where}: {key!r} is one for all tasks; a task's own can be {', '.join(OWN)}")
    if "task" not in dict(own):
        raise UserError(f"{where}: what kind of task is it? Give ('task', ...) of {', '.join(KINDS)}")
    found = settings.from_dict(dict(shared) | dict(own), where)
    if found.task not in KINDS:
        raise UserError(
            f"{where}: task={found.task!r}, but tasks that share a backbone are {', '.join(KINDS)}"
        )
    settings.validate(found, where)
    return found
