"""Tasks: what is encoded, predicted, lost and measured."""

from jaxft.tasks.base import Task
from jaxft.tasks.causal_lm.task import CausalLM
from jaxft.tasks.multi_task.task import MultiTask
from jaxft.tasks.question_answering.task import QuestionAnswering
from jaxft.tasks.sequence_classification.task import SequenceClassification
from jaxft.tasks.token_classification.crf import CRFTagging
from jaxft.tasks.token_classification.task import TokenClassification

TASKS: dict[str, type[Task]] = {  # by config.task
    "token_classification": TokenClassification,
    "crf_tagging": CRFTagging,
    "causal_lm": CausalLM,
    "sequence_classification": SequenceClassification,
    "question_answering": QuestionAnswering,
    "multi_task": MultiTask,
}
