"""Lists the tasks by name, as import strings, so that settings are read without importing any network."""

import dataclasses
import difflib
import functools
import importlib
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

from jaxft.config import sections
from jaxft.config.settings import Schema, declarations, refuse
from jaxft.errors import UserError
from jaxft.layers.heads.kinds import HeadKind

if TYPE_CHECKING:
    from jaxft.tasks.base import AnyAnswers, AnyEvaluator, AnyTaskData, Json, Task
    from jaxft.tasks.exports import AnyExport
    from jaxft.tasks.run_facts import AnyRunFacts


@dataclasses.dataclass(frozen=True)
class Entry:
    """Names what a task is made of, as import strings "module:name"; `jaxft.tasks.base` has the contracts.

    Attributes:
      settings: the settings class.
      data: makes the `TaskData` of settings.
      task: makes the `Task` of labels, settings and the rate of dropout before the head.
      evaluator: makes the `Evaluator` of labels and settings.
      answers: makes the `Answers` of `RunFacts`; None if the task generates text instead.
      card: the module that writes the task's sections of a model card; None if runs cannot be exported.
      export: makes the `Export` of `RunFacts`; None if runs cannot be exported.
      head: the kind of head that the task trains, for which it asks a model family; None for a model of its own.
      extends: earlier tasks whose settings this task also has.
    """

    settings: str
    data: str
    task: str
    evaluator: str
    answers: str | None
    card: str | None = None
    export: str | None = None
    head: HeadKind | None = None
    extends: tuple[str, ...] = ()


TASKS = {
    "token_classification": Entry(
        settings="jaxft.tasks.token_classification.settings:Settings",
        data="jaxft.tasks.token_classification.data:TaggedSentences",
        task="jaxft.tasks.token_classification.crf:make_task",
        evaluator="jaxft.tasks.token_classification.evaluation:TagEvaluator",
        answers="jaxft.tasks.token_classification.answers:TagAnswers",
        card="jaxft.tasks.token_classification.card",
        export="jaxft.tasks.token_classification.export:TagExport",
        head=HeadKind.TOKEN,
    ),
    "sequence_classification": Entry(
        settings="jaxft.tasks.sequence_classification.settings:Settings",
        data="jaxft.tasks.sequence_classification.data:LabelledTexts",
        task="jaxft.tasks.sequence_classification.task:SequenceClassification",
        evaluator="jaxft.tasks.sequence_classification.evaluation:TextEvaluator",
        answers="jaxft.tasks.sequence_classification.answers:TextAnswers",
        card="jaxft.tasks.sequence_classification.card",
        export="jaxft.tasks.sequence_classification.export:TextExport",
        head=HeadKind.SEQUENCE,
    ),
    "question_answering": Entry(
        settings="jaxft.tasks.question_answering.settings:Settings",
        data="jaxft.tasks.question_answering.data:Questions",
        task="jaxft.tasks.question_answering.task:QuestionAnswering",
        evaluator="jaxft.tasks.question_answering.evaluation:AnswerEvaluator",
        answers="jaxft.tasks.question_answering.answers:QuestionAnswers",
        card="jaxft.tasks.question_answering.card",
        export="jaxft.tasks.exports:Export",
        head=HeadKind.QUESTION,
    ),
    "causal_lm": Entry(
        settings="jaxft.tasks.causal_lm.settings:Settings",
        data="jaxft.tasks.causal_lm.data:Documents",
        task="jaxft.tasks.causal_lm.task:CausalLM",
        evaluator="jaxft.tasks.causal_lm.evaluation:LanguageModelEvaluator",
        answers=None,
        card="jaxft.tasks.causal_lm.card",
        export="jaxft.tasks.exports:Export",
        head=HeadKind.NEXT_TOKEN,
    ),
    "masked_lm": Entry(
        settings="jaxft.tasks.masked_lm.settings:Settings",
        data="jaxft.tasks.masked_lm.data:MaskedDocuments",
        task="jaxft.tasks.masked_lm.task:MaskedLM",
        evaluator="jaxft.tasks.masked_lm.evaluation:MaskEvaluator",
        answers="jaxft.tasks.masked_lm.answers:MaskAnswers",
        card="jaxft.tasks.masked_lm.card",
        export="jaxft.tasks.exports:Export",
        head=HeadKind.MASKED,
    ),
    "image_classification": Entry(
        settings="jaxft.tasks.image_classification.settings:Settings",
        data="jaxft.tasks.image_classification.data:LabelledImages",
        task="jaxft.tasks.image_classification.task:ImageClassification",
        evaluator="jaxft.tasks.image_classification.evaluation:ImageEvaluator",
        answers="jaxft.tasks.image_classification.answers:ImageAnswers",
        card="jaxft.tasks.image_classification.card",
        export="jaxft.tasks.image_classification.export:ImageExport",
        head=HeadKind.IMAGE,
    ),
    "multi_task": Entry(
        settings="jaxft.tasks.multi_task.settings:Settings",
        data="jaxft.tasks.multi_task.data:MultiTaskData",
        task="jaxft.tasks.multi_task.task:MultiTask",
        evaluator="jaxft.tasks.multi_task.evaluation:MultiTaskEvaluator",
        answers="jaxft.tasks.multi_task.answers:MultiTaskAnswers",
        card="jaxft.tasks.multi_task.card",
        export="jaxft.tasks.multi_task.export:MultiTaskExport",
        head=HeadKind.SHARED,
        extends=("token_classification", "sequence_classification"),
    ),
}


def schema_of(task: Any, where: str = "config") -> Schema:
    """Returns the schema of the settings for `task`.

    Args:
      task: the name of the task that settings give; None or "" if they give none.
      where: the source of the settings, for a message.

    Raises:
      UserError: there is no such task.
    """
    if not task:
        raise UserError(f"{where}: config.task must be given; expected one of {', '.join(TASKS)}")
    if not isinstance(task, str) or task not in TASKS:
        near = difflib.get_close_matches(str(task), TASKS, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        if task == "crf_tagging":  # its name in an earlier version of jaxft
            hint = "; a CRF is token_classification with config.model.crf=True"
        raise refuse("task", task, f"one of {', '.join(TASKS)}{hint}")
    return _make_schema(task)


@functools.cache
def _make_schema(task: str) -> Schema:
    root = _load(TASKS[task].settings)
    owners: dict[str, tuple[str, ...]] = {}
    for name, entry in TASKS.items():
        for key in declarations(_load(entry.settings)):
            # A task that extends others also has their settings, but owns only the settings that they lack.
            if key not in declarations(root) and not (entry.extends and key in owners):
                owners[key] = (*owners.get(key, ()), name)
    return Schema(root, task, owners, TASKS[task].extends)


def extended_sections(task: str, section: str) -> tuple[type, ...]:
    """Returns the classes of a section of settings in the tasks that `task` extends, as bases of its own class."""
    classes = [type(getattr(_load(TASKS[name].settings), section)) for name in TASKS[task].extends]
    # Not those from which another one inherits.
    return tuple(
        dict.fromkeys(kind for kind in classes if not any(kind in other.__mro__[1:] for other in classes))
    )


def make_data(config: sections.Settings) -> "AnyTaskData":
    """Returns the reader and encoder of the data of a run."""
    return _load(TASKS[config.task].data)(config)


def make_task(labels: list[str], config: sections.Settings, head_dropout: float) -> "Task":
    """Returns the task of a run.

    Args:
      labels: the names of the head's outputs, from `TaskData.make_labels`.
      config: the run's settings.
      head_dropout: the rate of dropout before the head, if the task has one.
    """
    return _load(TASKS[config.task].task)(labels, config, head_dropout)


def make_evaluator(
    labels: Sequence[str], config: sections.Settings, tuned: "Mapping[str, Json] | None" = None
) -> "AnyEvaluator":
    """Returns the evaluator of a run, with the values that it has `tuned` before."""
    evaluator = _load(TASKS[config.task].evaluator)(labels, config)
    evaluator.tuned = dict(tuned or {})
    return evaluator


def make_answers(run: "AnyRunFacts") -> "AnyAnswers | None":
    """Returns what reads and writes the records of `predict` for a run; None if its task generates text instead."""
    address = TASKS[run.config.task].answers
    return None if address is None else _load(address)(run)


def make_export(run: "AnyRunFacts") -> "AnyExport":
    """Returns what depends on the task where a run is exported."""
    return _load(_require(run.config.task, TASKS[run.config.task].export))(run)


def head_kind(task: str) -> HeadKind:
    """Returns the kind of head for which a task asks a model family; it must ask for one."""
    head = TASKS[task].head
    assert head is not None, f"{task} has a model of its own"
    return head


def generates_text(task: str) -> bool:
    """Returns whether runs of a task generate text (`generate`), instead of answering records (`predict`)."""
    return TASKS[task].answers is None


def load_card(task: str) -> ModuleType:
    """Returns the module that writes a task's sections of a model card."""
    return importlib.import_module(_require(task, TASKS[task].card))


def _require(task: str, address: str | None) -> str:
    """Returns the address of what only tasks have whose runs can be exported."""
    assert address is not None, f"runs of {task} cannot be exported"
    return address


def _load(address: str) -> Any:
    module, _, name = address.partition(":")
    return getattr(importlib.import_module(module), name)
