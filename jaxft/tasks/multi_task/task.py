"""Several tasks with a shared backbone. Each has its head, labels, loss and metrics; shared texts are encoded once."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from rich.console import Console

from jaxft.config.sections import Settings
from jaxft.data.batching.batch import INPUTS, ArraySpec, Batch, BatchSpec
from jaxft.data.encoding.multi_task import (
    MultiText,
    get_text_and_pair,
    join_examples,
    split_dev_texts,
)
from jaxft.data.encoding.windows import Windows
from jaxft.errors import UserError
from jaxft.io.files import write_json
from jaxft.layers.dropout import DropoutSeed
from jaxft.layers.heads.multi_head import MultiHead, SharedBackbone
from jaxft.models.model_config import ModelConfig
from jaxft.models.runtime import Runtime
from jaxft.tasks.base import Log, Split, Task, group_by_words
from jaxft.tasks.multi_task import data
from jaxft.tasks.multi_task.data import divide_by_task, select_examples, select_with_prefix
from jaxft.tasks.multi_task.encoding import encode_for_tasks
from jaxft.tasks.multi_task.metrics import MultiTaskState, average_metrics
from jaxft.tasks.multi_task.task_configs import make_task_configs
from jaxft.tasks.registry import task_class
from jaxft.tasks.sequence_classification.number_label import VALUE
from jaxft.tasks.sequence_classification.task import SequenceClassification
from jaxft.tasks.settings import resolve_max_segments
from jaxft.tasks.token_classification.task import TokenClassification

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclasses.dataclass(frozen=True)
class Predictions:
    """The predictions of each task for a split, and each task's loss as (sum, weight)."""

    by_task: dict[str, Any]
    losses: dict[str, tuple[float, float]]


class MultiTask:
    """The tasks of `config.tasks` with a shared backbone.

    A text that several tasks read from the same source is encoded once. If one of the tasks labels words, the text is
    encoded completely, as words, in as many windows as needed. All heads read the same hidden states from the same
    pass. A text without labels for a task does not count in the task's loss.

    A step's loss is the sum over tasks of weight * share * mean. Weight is the task's `loss.weight`, share is the
    fraction of the step's windows with labels for the task, and mean is the task's mean loss over these labels (class
    weights do not change the divisor). With `config.loss.balance="uncertainty"`, learned log variances s replace the
    weights: share * (exp(-s) * mean + s / 2), with half of exp(-s) for numbers (Kendall et al. 2018, equation 10).
    """

    model_types = ("bert",)
    reads_words = False
    example_input = "Anna Smith moved to Berlin ."
    predicts_tokens = False

    def __init__(self, labels: list[str], *, head_dropout: float = 0.1, config: Settings):
        self.labels = labels
        task_configs = make_task_configs(config)
        self.tasks: dict[str, Task] = {}
        for name, task_config in task_configs.items():
            task_labels = [label.partition("/")[2] for label in labels if label.partition("/")[0] == name]
            self.tasks[name] = task_class(task_config)(
                task_labels, head_dropout=head_dropout, config=task_config
            )
        self.taggers = [name for name, task in self.tasks.items() if isinstance(task, TokenClassification)]
        if self.taggers:  # their texts are read as words and ignore config.data.truncation
            for task in self.tasks.values():
                if isinstance(task, SequenceClassification):
                    task.method = f"texts whole where they are read as words; of others {task.method}"
        self.weights = {name: task_config.loss.weight for name, task_config in task_configs.items()}
        self.learns_weights = config.loss.balance == "uncertainty"
        if self.learns_weights and set(self.weights.values()) != {1.0}:
            raise UserError(
                "config.loss.balance='uncertainty' learns the weights of tasks; leave out loss.weight"
            )
        self.backbone_passes = 1 + sum(task.backbone_passes - 1 for task in self.tasks.values())
        self.compares_with_train = any(task.compares_with_train for task in self.tasks.values())
        self.selection_metric = "+".join(
            f"{name}/{task.selection_metric}" for name, task in self.tasks.items()
        )
        self.averaged_metric = self.selection_metric if config.eval.metric == "auto" else config.eval.metric
        arrays = INPUTS | {"starts": ArraySpec(np.int32, True)}
        for name, task in self.tasks.items():
            arrays |= {f"{name}/{key}": task.batch_spec.arrays[key] for key in ("labels", "weights")}
        arrays["task_weights"] = ArraySpec(np.float32, True, (len(self.tasks) + 1,))
        self.batch_spec = BatchSpec(arrays, resolve_max_segments(config.data))

    @property
    def tuned(self) -> dict[str, Any]:
        """The tuned values by task, for tasks that tuned any."""
        return {name: task.tuned for name, task in self.tasks.items() if task.tuned}

    @tuned.setter
    def tuned(self, values: Mapping[str, Any]) -> None:
        """Sets the tuned values of each task."""
        for name, task in self.tasks.items():
            task.tuned = values.get(name, {})

    # ---------------------------------------------------------------- data

    @staticmethod
    def read(config: Settings, name: str, source: str, log: Log) -> list[MultiText]:
        """Returns the texts of the data sets that `source` names; see `data.read_texts`."""
        return data.read_texts(config, name, source, log)

    @staticmethod
    def split_dev(
        texts: Sequence[MultiText], fraction: float, seed: int
    ) -> tuple[list[MultiText], list[MultiText]]:
        """Splits the texts of each data set into (train, dev)."""
        return split_dev_texts(texts, fraction, seed)

    @staticmethod
    def find_labels(texts: Sequence[MultiText]) -> list[data.FoundLabels]:
        """Returns the labels that each task finds in its examples."""
        return data.find_labels(texts)

    @staticmethod
    def make_labels(found_labels: Sequence[data.FoundLabels]) -> list[str]:
        """Returns the labels of all tasks, as TASK/LABEL."""
        return data.make_labels(found_labels)

    @staticmethod
    def iterate_texts(train: Sequence[MultiText]) -> Iterator[str]:
        """Yields each text once, and its pair."""
        for text in train:
            first_example = next(iter(text.examples.values()))
            yield from (string for string in get_text_and_pair(first_example) if string is not None)

    def check(self, split: Split, train: Sequence[MultiText], log: Log) -> None:
        """Logs each task's warnings about its examples."""
        for name, (task_split, _) in divide_by_task(split, self.tasks).items():
            is_train = split.examples is train
            task_train = task_split.examples if is_train else select_examples(train, name)
            self.tasks[name].check(task_split, task_train, log)

    def encode(
        self,
        texts: Sequence[MultiText],
        tokenizer: "PreTrainedTokenizerBase",
        config: Settings,
        *,
        only: range | None = None,
        cached: bool = True,
    ) -> Windows:
        """Returns the windows of texts for all tasks; see `encode_for_tasks`."""
        texts = texts if only is None else texts[only.start : only.stop]
        return encode_for_tasks(self.tasks, texts, tokenizer, config, cached=cached)

    def output_counts(self, windows: Windows) -> None:
        """Returns None, because the heads may read any position."""

    # ---------------------------------------------------------------- model

    def build_model(self, model_config: ModelConfig, runtime: Runtime, rngs: nnx.Rngs) -> nnx.Module:
        """Returns a `MultiHead` over a backbone of `model_config`."""
        models = {name: task.build_model(model_config, runtime, rngs) for name, task in self.tasks.items()}
        return MultiHead(models, uncertainty=self.learns_weights)

    def _views(self, model: nnx.Module, batch: dict[str, jax.Array]) -> Iterator[tuple[str, Task, Any, dict]]:
        """Yields (name, task, its model, its batch). All models read the same hidden states."""
        backbone = SharedBackbone(model.backbone)
        for name, task in self.tasks.items():
            task_arrays = {key: batch[f"{name}/{key}"] for key in ("labels", "weights")}
            yield name, task, model.task_model(name, backbone), batch | task_arrays

    def loss(self, model, batch, dropout: DropoutSeed | None):
        """Returns the sum over tasks (see the class), and the share of the step's windows in this batch.

        `batch["scales"]` belong to the step: they are `step_scales` of its `task_weights`.
        """
        total, window_share = jnp.float32(0), batch["scales"][..., -1]
        for index, (name, task, task_model, task_batch) in enumerate(self._views(model, batch)):
            scales = batch["scales"][..., index]
            # If each class has a separate loss, the weight of a window counts once for each class.
            class_count = math.prod(task.batch_spec.arrays["labels"].shape)
            loss = task.loss(task_model, task_batch, dropout)[0] * jnp.max(scales) / class_count
            if self.learns_weights:
                log_variance = model.head["uncertainty"][index]
                factor = 0.5 if task.labels == [VALUE] else 1.0
                regularizer = log_variance / 2 * jnp.sum((scales > 0) * window_share)
                total += factor * jnp.exp(-log_variance) * loss + regularizer
            else:
                total += self.weights[name] * loss
        return total, jnp.sum(window_share)

    def logits(self, model, batch) -> dict[str, jax.Array]:
        """Returns the logits of each task, by task."""
        return {
            name: task.logits(task_model, task_batch)
            for name, task, task_model, task_batch in self._views(model, batch)
        }

    def head_order(self, hf_config: Mapping[str, Any]) -> list[int] | None:
        """Returns None: the heads are those of several tasks."""
        return None

    def to_transformers(self, parameters: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns the backbone's parameters."""
        return {name: value for name, value in parameters.items() if name.startswith("backbone/")}

    def predict(self, model, batch):
        """Returns outputs as TASK/KEY and TASK/loss [2] (sum, weight), and the sum of the tasks' losses."""
        outputs, losses = {}, []
        for name, task, task_model, task_batch in self._views(model, batch):
            task_outputs, total, weight = task.predict(task_model, task_batch)
            loss = jnp.stack([total, weight])
            losses.append(loss)
            outputs |= {f"{name}/{key}": value for key, value in task_outputs.items()} | {
                f"{name}/loss": loss
            }
        return outputs, *sum(losses)

    def encode_prompts(self, texts, tokenizer, config) -> list[list[int]]:
        """Returns no prompts, because labels are not text."""
        return []

    # ---------------------------------------------------------------- evaluation

    def collect(self, split: Split, outputs: Iterable[tuple[Batch, dict[str, np.ndarray]]]) -> Predictions:
        """Returns the predictions of each task that has examples in a split."""
        batches = [(batch._replace(arrays={}), arrays) for batch, arrays in outputs]
        by_task, losses = {}, {}
        for name, (task_split, number) in divide_by_task(split, self.tasks).items():
            task_outputs = (
                (
                    batch._replace(windows=np.where(batch.windows >= 0, number[batch.windows], -1)),
                    select_with_prefix(arrays, name),
                )
                for batch, arrays in batches
            )
            by_task[name] = self.tasks[name].collect(task_split, task_outputs)
            batch_losses = [arrays[f"{name}/loss"] for _, arrays in batches]
            losses[name] = tuple(np.sum(batch_losses, axis=0, dtype=np.float64))
        return Predictions(by_task, losses)

    def predict_stream(
        self,
        texts: Iterable[MultiText],
        tokenizer: "PreTrainedTokenizerBase",
        config: Settings,
        outputs: Callable[[Windows], Iterable[tuple[Batch, dict[str, np.ndarray]]]],
        *,
        max_words: int,
    ) -> Iterator[list[tuple[MultiText, dict[str, Any]]]]:
        """Predicts texts while they arrive; yields chunks of (text, answer of each task) in order.

        The answer of a task that labels words is a `Prediction`. The answer of any other task comes from
        `LabelType.answer`.

        Args:
          texts: the texts; None where the next one may take long to arrive.
          tokenizer: the tokenizer.
          config: the run's settings.
          outputs: returns the model's outputs for windows.
          max_words: the most words in a chunk, unless a single text has more. Only one chunk is in memory at a time.
        """
        for chunk in group_by_words(texts, _count_words, max_words):
            # As in training, tasks that read different strings of a record get different texts.
            indices, joined = [], []
            for index, text in enumerate(chunk):
                examples = {name: [example] for name, example in text.examples.items()}
                for joined_text in join_examples(examples, 0, text.task_classes):
                    indices.append(index)
                    joined.append(joined_text)
            windows = self.encode(joined, tokenizer, config, cached=False)
            predictions = self.collect(Split("input", "input", joined, windows), outputs(windows))
            answers: list[dict[str, Any]] = [{} for _ in chunk]
            for name, task_predictions in predictions.by_task.items():
                task = self.tasks[name]
                task_answers = task_predictions
                if name not in self.taggers:
                    task_answers = task.label_type.answer(task_predictions, task.tuned)
                members = (
                    index for index, text in zip(indices, joined, strict=True) if name in text.examples
                )
                for index, answer in zip(members, task_answers, strict=True):
                    answers[index][name] = answer
            yield list(zip(chunk, answers, strict=True))

    def tune(self, split: Split, predictions: Predictions) -> None:
        """Tunes each task on its predictions."""
        for name, (task_split, _) in divide_by_task(split, self.tasks).items():
            self.tasks[name].tune(task_split, predictions.by_task[name])

    def measure(
        self, split: Split, predictions: Predictions, loss_sum: float, weight_sum: float
    ) -> MultiTaskState:
        """Returns the metric states of all tasks."""
        states = {
            name: self.tasks[name].measure(task_split, predictions.by_task[name], *predictions.losses[name])
            for name, (task_split, _) in divide_by_task(split, self.tasks).items()
        }
        return MultiTaskState(states, self.weights, self.averaged_metric)

    def metric_names(self, split: Split) -> list[str]:
        """Returns the names of the metrics that `measure` computes on a split."""
        names = ["loss"]
        for name, (task_split, _) in divide_by_task(split, self.tasks).items():
            names += [f"{name}/{key}" for key in self.tasks[name].metric_names(task_split)]
        return names + list(average_metrics(self.averaged_metric, dict.fromkeys(names, 0.0)))

    def summarize(self, values: dict[str, float]) -> str:
        """Returns the metrics of each task as a line of the log."""
        summaries = []
        for name, task in self.tasks.items():
            if task_values := select_with_prefix(values, name):
                summaries.append(f"{name}: {task.summarize(task_values)}")
        return "; ".join(summaries)

    def find_seen(
        self, split: Split, predictions: Predictions, train: Sequence[MultiText]
    ) -> list[tuple[str, Any]]:
        """Returns (task's name, item) for each item that a task counts as seen in training."""
        seen = []
        for name, (task_split, _) in divide_by_task(split, self.tasks).items():
            if (task := self.tasks[name]).compares_with_train:
                task_train = select_examples(train, name)
                task_seen = task.find_seen(task_split, predictions.by_task[name], task_train)
                seen += [(name, item) for item in task_seen]
        return seen

    def write_evaluation(
        self,
        folder: Path,
        split: Split,
        state: MultiTaskState,
        predictions: Predictions,
        *,
        seen: Sequence[tuple[str, Any]],
        samples: int,
        seed: int,
        console: Console,
    ) -> dict[str, float]:
        """Writes each task's files, as split NAME-TASK, and eval/NAME.json with all metrics; returns the metrics.

        Prints a line for each task. Its tables are in its files.
        """
        for name, (task_split, _) in divide_by_task(split, self.tasks).items():
            self.tasks[name].write_evaluation(
                folder,
                task_split,
                state.by_task[name],
                predictions.by_task[name],
                seen=[item for task, item in seen if task == name],
                samples=samples,
                seed=seed,
                console=Console(quiet=True),
            )
            summary = self.tasks[name].summarize(state.by_task[name].compute())
            console.print(f"{name}: {summary}; all tables: eval/{task_split.name}.txt", markup=False)
        metrics = state.compute()
        write_json(folder / "eval" / f"{split.name}.json", {"data": split.source, "metrics": metrics})
        return metrics


def _count_words(text: MultiText) -> int:
    return 1 + max(
        len(" ".join(filter(None, get_text_and_pair(example))).split()) for example in text.examples.values()
    )
