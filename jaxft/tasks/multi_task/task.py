"""Several tasks on one backbone: each its own head, labels, loss and metrics, texts that they share encoded once."""

import dataclasses
import itertools
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
from jaxft.data.batching.batch import INPUTS, ArraySpec, Batch
from jaxft.data.encoding.multi_task import (
    MultiText,
    get_text_and_pair,
    join_examples,
    parse_data_sets,
    select_task_windows,
    split_dev_texts,
)
from jaxft.data.encoding.windows import Windows
from jaxft.data.sources.labelled_texts import LabelledText
from jaxft.data.sources.sentence import Sentence
from jaxft.errors import UserError
from jaxft.io import write_json
from jaxft.layers.dropout import DropoutSeed
from jaxft.layers.multi_head import MultiHead, SharedBackbone
from jaxft.tasks.base import Log, Split, Task, group_by_words
from jaxft.tasks.multi_task.encoding import encode_for_tasks
from jaxft.tasks.multi_task.metrics import ComposedState, compose
from jaxft.tasks.multi_task.task_configs import make_task_configs
from jaxft.tasks.registry import task_class
from jaxft.tasks.sequence_classification.label_types import VALUE
from jaxft.tasks.sequence_classification.task import SequenceClassification
from jaxft.tasks.token_classification.task import TokenClassification

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


# The classes that read the examples of each kind of task; `task_class` chooses the one that is trained.
CLASSES: dict[str, type[Task]] = {
    "token_classification": TokenClassification,
    "sequence_classification": SequenceClassification,
}


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What `collect` of each task gave, and its loss as (sum, weight)."""

    of: dict[str, Any]
    losses: dict[str, tuple[float, float]]


class MultiTask:
    """Tasks of `config.tasks` over one backbone.

    Texts that several tasks have from one source are encoded once, as words if one of the tasks labels words (then
    whole, in windows), and all heads read the same hidden states in the same pass. A text has no part in the loss of
    a task that it has no labels for.

    A step's loss is the sum over tasks of weight * share * mean: `loss.weight` of the task, the share of the step's
    windows that have labels for it, and its own mean loss over their labels (class weights don't change that
    divisor). With `config.loss.balance="uncertainty"` learned log variances s take the place of weights:
    share * (exp(-s) * mean + s / 2), half of exp(-s) for numbers (Kendall et al. 2018, equation 10).
    """

    architectures = ("bert",)
    reads_words = False
    predicts_tokens = False

    def __init__(self, labels: list[str], *, head_dropout: float = 0.1, config: Settings):
        self.labels = labels
        own = make_task_configs(config)
        self.tasks: dict[str, Task] = {}
        for name, one in own.items():
            its = [label.partition("/")[2] for label in labels if label.partition("/")[0] == name]
            self.tasks[name] = task_class(one)(its, head_dropout=head_dropout, config=one)
        self.taggers = [name for name, task in self.tasks.items() if isinstance(task, TokenClassification)]
        if self.taggers:  # whose texts are read as words, whatever config.data.truncation
            for task in self.tasks.values():
                if isinstance(task, SequenceClassification):
                    task.method = f"texts whole where they are read as words; of others {task.method}"
        self.weights = {name: one.loss.weight for name, one in own.items()}
        self.uncertainty = config.loss.balance == "uncertainty"
        if self.uncertainty and set(self.weights.values()) != {1.0}:
            raise UserError(
                "config.loss.balance='uncertainty' learns the weights of tasks; leave out loss.weight"
            )
        self.backbone_passes = 1 + sum(task.backbone_passes - 1 for task in self.tasks.values())
        self.compares_with_train = any(task.compares_with_train for task in self.tasks.values())
        best = [f"{name}/{task.selection_metric}" for name, task in self.tasks.items()]
        self.selection_metric = "+".join(best)
        self.asked = self.selection_metric if config.eval.metric == "auto" else config.eval.metric
        self.max_segments = config.data.max_segments or max(1, config.data.max_length // 8)
        self.arrays = INPUTS | {"starts": ArraySpec(np.int32, True)}
        for name, task in self.tasks.items():
            self.arrays |= {f"{name}/{key}": task.arrays[key] for key in ("labels", "weights")}
        self.arrays["task_weights"] = ArraySpec(np.float32, True, (len(self.tasks) + 1,))

    @property
    def tuned(self) -> dict[str, Any]:
        """By task, of those that tuned something."""
        return {name: task.tuned for name, task in self.tasks.items() if task.tuned}

    @tuned.setter
    def tuned(self, values: Mapping[str, Any]) -> None:
        for name, task in self.tasks.items():
            task.tuned = values.get(name, {})

    # ---------------------------------------------------------------- examples

    @staticmethod
    def read(config: Settings, name: str, source: str, log: Log) -> list[MultiText]:
        """All texts of the data sets that `source` names; see `joint.sources`."""
        own = make_task_configs(config)
        kinds = {task: CLASSES[one.task] for task, one in own.items()}
        found: list[MultiText] = []
        for index, (tasks, address) in enumerate(parse_data_sets(source, list(own))):
            parts = {t: kinds[t].read(own[t], f"{name}-{t}", address, log) for t in tasks}
            found += join_examples(parts, index, kinds)
        counts = ", ".join(f"{sum(t in e.examples for e in found):,} for {t}" for t in own)
        log(f"{name}: {len(found):,} texts, with labels {counts}")
        return found

    @staticmethod
    def split_dev(
        examples: Sequence[MultiText], fraction: float, seed: int
    ) -> tuple[list[MultiText], list[MultiText]]:
        """See `joint.split_dev`."""
        return split_dev_texts(examples, fraction, seed)

    @staticmethod
    def find_labels(examples: Sequence[MultiText]) -> list[tuple[str, str, list[Any] | None]]:
        """Of each task: its name, its kind, and what that finds in its examples, None where there are none."""
        names = {kind: name for name, kind in CLASSES.items()}
        own = {name: (kind, _examples(examples, name)) for name, kind in examples[0].task_classes.items()}
        return [
            (name, names[kind], kind.find_labels(some) if some else None)
            for name, (kind, some) in own.items()
        ]

    @staticmethod
    def make_labels(found: Sequence[tuple[str, str, list[Any] | None]]) -> list[str]:
        """Labels of each task, as NAME/LABEL."""
        labels = []
        for name, kind in dict.fromkeys((name, kind) for name, kind, _ in found):
            own = [some for task, _, some in found if task == name and some is not None]
            if not own:
                raise UserError(
                    f"the training data has no text for the task {name}; name one in config.data.train"
                )
            labels += [f"{name}/{label}" for label in CLASSES[kind].make_labels(list(itertools.chain(*own)))]
        return labels

    @staticmethod
    def iterate_texts(train: Sequence[MultiText]) -> Iterator[str]:
        """Texts, each once, and their pairs."""
        return (
            text
            for e in train
            for text in get_text_and_pair(next(iter(e.examples.values())))
            if text is not None
        )

    def check(self, split: Split, train: Sequence[MultiText], log: Log) -> None:
        """What each task says of its part."""
        for name, (part, _) in self._parts(split).items():
            known = part.examples if split.examples is train else _examples(train, name)
            self.tasks[name].check(part, known, log)

    def encode(
        self,
        examples: Sequence[MultiText],
        tokenizer: "PreTrainedTokenizerBase",
        config: Settings,
        *,
        only: range | None = None,
        cached: bool = True,
    ) -> Windows:
        """`Windows` of examples (`only` some, if given), of all tasks together; see `joint_encoding`."""
        examples = examples if only is None else examples[only.start : only.stop]
        return encode_for_tasks(self.tasks, examples, tokenizer, config, cached=cached)

    def _parts(self, split: Split) -> dict[str, tuple[Split, np.ndarray]]:
        """For each task that has examples in `split`: its part, and each window's number in it, -1 for none."""
        found = {}
        for name in self.tasks:
            if own := _examples(split.examples, name):
                member = np.array([name in example.examples for example in split.examples], bool)
                windows, number = select_task_windows(split.windows, name, member)
                found[name] = Split(f"{split.name}-{name}", split.source, own, windows), number
        return found

    # ---------------------------------------------------------------- model

    def output_counts(self, windows: Windows) -> None:
        """All."""

    def build_model(self, sizes: dict, rngs: nnx.Rngs) -> nnx.Module:
        """`MultiHead` over a backbone of `sizes`."""
        models = {name: task.build_model(sizes, rngs) for name, task in self.tasks.items()}
        return MultiHead(models, uncertainty=self.uncertainty)

    def _views(self, model: nnx.Module, batch: dict[str, jax.Array]) -> Iterator[tuple[str, Task, Any, dict]]:
        """Each task with its model, all over the same hidden states, and its batch."""
        backbone = SharedBackbone(model.backbone)
        for name, task in self.tasks.items():
            own = {key: batch[f"{name}/{key}"] for key in ("labels", "weights")}
            yield name, task, model.task_model(name, backbone), batch | own

    def loss(self, model, batch, dropout: DropoutSeed | None):
        """The sum over tasks, see the class; weight: the share of the step's windows that the batch holds.

        `batch["scales"]`: of the step, `losses.step_scales` of its `task_weights`.
        """
        total, each = jnp.float32(0), batch["scales"][..., -1]
        for index, (name, task, own, view) in enumerate(self._views(model, batch)):
            scales = batch["scales"][..., index]
            # A label's weight counts for each of the classes that are told apart by themselves.
            loss = task.loss(own, view, dropout)[0] * jnp.max(scales) / math.prod(task.arrays["labels"].shape)
            if self.uncertainty:
                variance = model.head["uncertainty"][index]
                factor = 0.5 if task.labels == [VALUE] else 1.0
                total += factor * jnp.exp(-variance) * loss + variance / 2 * jnp.sum((scales > 0) * each)
            else:
                total += self.weights[name] * loss
        return total, jnp.sum(each)

    def logits(self, model, batch) -> dict[str, jax.Array]:
        """By task; see their `logits`."""
        return {name: task.logits(own, view) for name, task, own, view in self._views(model, batch)}

    def to_transformers(self, parameters: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The backbone's."""
        return {name: value for name, value in parameters.items() if name.startswith("backbone/")}

    def predict(self, model, batch):
        """Each task's predictions as NAME/KEY, its loss as NAME/loss [2] (sum, weight), and the sum of all."""
        outputs, sums = {}, []
        for name, task, own, view in self._views(model, batch):
            found, total, weight = task.predict(own, view)
            sums.append(jnp.stack([total, weight]))
            outputs |= {f"{name}/{key}": value for key, value in found.items()} | {f"{name}/loss": sums[-1]}
        return outputs, *sum(sums)

    def encode_prompts(self, examples, tokenizer, config) -> list[list[int]]:
        """None: labels are no text."""
        return []

    # ---------------------------------------------------------------- evaluation

    def collect(self, split: Split, outputs: Iterable[tuple[Batch, dict[str, np.ndarray]]]) -> Predictions:
        """Each task's predictions, of those that have examples in `split`."""
        kept = [(batch._replace(arrays={}), arrays) for batch, arrays in outputs]
        of, losses = {}, {}
        for name, (part, number) in self._parts(split).items():
            prefix = f"{name}/"
            own = (
                (
                    batch._replace(windows=np.where(batch.windows >= 0, number[batch.windows], -1)),
                    {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)},
                )
                for batch, arrays in kept
            )
            of[name] = self.tasks[name].collect(part, own)
            losses[name] = tuple(
                np.sum([arrays[f"{name}/loss"] for _, arrays in kept], axis=0, dtype=np.float64)
            )
        return Predictions(of, losses)

    def predict_stream(
        self,
        examples: Iterable[MultiText],
        tokenizer: "PreTrainedTokenizerBase",
        config: Settings,
        outputs: Callable[[Windows], Iterable[tuple[Batch, dict[str, np.ndarray]]]],
        *,
        max_words: int,
    ) -> Iterator[list[tuple[MultiText, dict[str, Any]]]]:
        """Predicts texts as they come: yields them with each task's answer, in order, a chunk at a time.

        An answer is a `Prediction` for words, and for texts what `Problem.answers` gives. outputs: the model's, of
        all windows. max_words: of a chunk (or one text): all that is held in memory.
        """
        for chunk in group_by_words(examples, _words, max_words):
            # As in training, tasks that read another text of a record get it on its own.
            texts = [
                (index, text)
                for index, example in enumerate(chunk)
                for text in join_examples(
                    {name: [part] for name, part in example.examples.items()}, 0, example.task_classes
                )
            ]
            of_texts = [text for _, text in texts]
            windows = self.encode(of_texts, tokenizer, config, cached=False)
            split = Split("input", "input", of_texts, windows)
            answers: list[dict[str, Any]] = [{} for _ in chunk]
            for name, found in self.collect(split, outputs(windows)).of.items():
                task = self.tasks[name]
                said = found if name in self.taggers else task.label_type.answer(found, task.tuned)
                own = (index for index, text in texts if name in text.examples)
                for index, answer in zip(own, said, strict=True):
                    answers[index][name] = answer
            yield list(zip(chunk, answers, strict=True))

    def tune(self, split: Split, predictions: Predictions) -> None:
        """As each task does."""
        for name, (part, _) in self._parts(split).items():
            self.tasks[name].tune(part, predictions.of[name])

    def measure(
        self, split: Split, predictions: Predictions, loss_sum: float, weight_sum: float
    ) -> ComposedState:
        """The states of all tasks."""
        of = {
            name: self.tasks[name].measure(part, predictions.of[name], *predictions.losses[name])
            for name, (part, _) in self._parts(split).items()
        }
        return ComposedState(of, self.weights, self.asked)

    def metric_names(self, split: Split) -> list[str]:
        """The names of what `measure` gives on `split`."""
        names = ["loss"]
        for name, (part, _) in self._parts(split).items():
            names += [f"{name}/{key}" for key in self.tasks[name].metric_names(part)]
        return names + list(compose(self.asked, dict.fromkeys(names, 0.0)))

    def summarize(self, values: dict[str, float]) -> str:
        """The metrics of a log line."""
        said = []
        for name, task in self.tasks.items():
            own = {k.removeprefix(f"{name}/"): v for k, v in values.items() if k.startswith(f"{name}/")}
            said += [f"{name}: {task.summarize(own)}"] if own else []
        return "; ".join(said)

    def find_seen(
        self, split: Split, predictions: Predictions, train: Sequence[MultiText]
    ) -> list[tuple[str, Any]]:
        """What each task is compared with, beside its name."""
        found = []
        for name, (part, _) in self._parts(split).items():
            if (task := self.tasks[name]).compares_with_train:
                own = task.find_seen(part, predictions.of[name], _examples(train, name))
                found += [(name, one) for one in own]
        return found

    def write_evaluation(
        self,
        folder: Path,
        split: Split,
        state: ComposedState,
        predictions: Predictions,
        *,
        seen: Sequence[tuple[str, Any]],
        samples: int,
        seed: int,
        console: Console,
    ) -> dict[str, float]:
        """Writes what each task writes, as of a split NAME-TASK, and eval/NAME.json with all metrics; returns them."""
        for name, (part, _) in self._parts(split).items():
            self.tasks[name].write_evaluation(
                folder,
                part,
                state.of[name],
                predictions.of[name],
                seen=[one for task, one in seen if task == name],
                samples=samples,
                seed=seed,
                console=console,
            )
        metrics = state.compute()
        write_json(folder / "eval" / f"{split.name}.json", {"data": split.source, "metrics": metrics})
        return metrics


def _examples(examples: Sequence[MultiText], name: str) -> list[Sentence | LabelledText]:
    return [example.examples[name] for example in examples if name in example.examples]


def _words(example: MultiText) -> int:
    return 1 + max(
        len(" ".join(filter(None, get_text_and_pair(part))).split()) for part in example.examples.values()
    )
