"""Token classification: predicts tags of words from the hidden state of each word's first (or last) subword."""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from rich.console import Console

from jaxft.config.sections import Settings
from jaxft.data.batching.batch import TOKEN_LABELS, Batch, BatchSpec, word_values
from jaxft.data.encoding.sentence_chunks import SentenceChunk, chunk_sentences
from jaxft.data.encoding.sentences import encode_sentences
from jaxft.data.encoding.windows import Windows
from jaxft.data.sources.dev_split import split_dev_sentences
from jaxft.data.sources.tagged_sentences.sentence import Sentence
from jaxft.layers.dropout import DropoutSeed
from jaxft.layers.heads.token import TokenClassifier
from jaxft.layers.inputs import Inputs
from jaxft.layers.linear import Linear
from jaxft.losses import cross_entropy
from jaxft.metrics.entities import EntityState
from jaxft.metrics.tokens import LabelState
from jaxft.models.model_config import ModelConfig
from jaxft.models.registry import make_backbone
from jaxft.models.runtime import Runtime
from jaxft.tasks.base import (
    Log,
    Split,
    cache_folder,
    find_head_order,
    group_by_words,
    loss_with_r_drop,
    read_class_weights,
)
from jaxft.tasks.token_classification import evaluation
from jaxft.tasks.token_classification.data import (
    check_sentences,
    forms_entities,
    make_tag_labels,
    read_tagged_sentences,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The tags of a sentence with their probabilities, one for each word."""

    tags: list[str]
    scores: np.ndarray  # float32 [words]
    form_entities: bool = True  # True if the tags are IOB2, which join words into entities


class TokenClassification:
    """Predicts named entities or other labels of words, by a softmax over IOB2 tags or plain labels.

    Predictions are a `Prediction` for each sentence.
    """

    model_types = ("bert", "gpt2")
    reads_words = True
    example_input = "Anna Smith moved to Berlin ."
    predicts_tokens = False
    batch_spec = BatchSpec(TOKEN_LABELS)
    head_class: type[Linear] = Linear

    def __init__(self, labels: list[str], *, head_dropout: float = 0.1, config: Settings):
        self.labels = labels
        self.tuned = {}
        self.data = config.data
        self.labels_form_entities = forms_entities(config, labels)
        self.compares_with_train = self.labels_form_entities  # evaluations count seen and unseen entities
        self.selection_metric = "entity_f1" if self.labels_form_entities else "token_accuracy"
        self.head_dropout = head_dropout
        self.label_smoothing = config.loss.label_smoothing
        self.focal_gamma = config.loss.focal_gamma
        self.r_drop = config.loss.r_drop
        self.backbone_passes = 2 if self.r_drop else 1
        self.class_weights = read_class_weights(config, labels)

    # ---------------------------------------------------------------- data

    @staticmethod
    def read(config: Settings, name: str, source: str, log: Log) -> list[Sentence]:
        """Returns the sentences of `source`; see `read_tagged_sentences`."""
        return read_tagged_sentences(config.data, name, source, log)

    @staticmethod
    def split_dev(
        sentences: Sequence[Sentence], fraction: float, seed: int
    ) -> tuple[list[Sentence], list[Sentence]]:
        """Splits sentences into (train, dev) without dividing a document."""
        return split_dev_sentences(sentences, fraction, seed)

    @staticmethod
    def find_labels(sentences: Sequence[Sentence]) -> list[str]:
        """Returns the tags of the sentences."""
        return sorted({tag for sentence in sentences for tag in sentence.tags})

    @staticmethod
    def make_labels(found_labels: Sequence[str]) -> list[str]:
        """Returns IOB2 labels of the entity types, or the plain labels; see `make_tag_labels`."""
        return make_tag_labels(found_labels)

    @staticmethod
    def iterate_texts(train: Sequence[Sentence]) -> Iterator[str]:
        """Yields the words of each sentence, separated by spaces."""
        return (" ".join(sentence.words) for sentence in train)

    def check(self, split: Split, train: Sequence[Sentence], log: Log) -> None:
        """Warns about doubtful tags, and about sentences that are also in `train`; see `check_sentences`."""
        check_sentences(
            split,
            train,
            data=self.data,
            labels=self.labels,
            labels_form_entities=self.labels_form_entities,
            log=log,
        )

    def encode(
        self,
        sentences: Sequence[Sentence],
        tokenizer: "PreTrainedTokenizerBase",
        config: Settings,
        *,
        only: range | None = None,
        cached: bool = True,
    ) -> Windows:
        """Returns the windows of sentences; see `encode_sentences`."""
        data = config.data
        return encode_sentences(
            sentences,
            tokenizer,
            {label: i for i, label in enumerate(self.labels)},
            max_length=data.max_length,
            label_subwords=data.label_subwords,
            context=data.context,
            stride=data.stride,
            cache_dir=cache_folder(data.cache_dir) if cached else None,
            only=only,
        )

    def output_counts(self, windows: Windows) -> np.ndarray:
        """Returns the number of labelled subwords of each window."""
        return windows.label_counts

    # ---------------------------------------------------------------- model

    def build_model(self, model_config: ModelConfig, runtime: Runtime, rngs: nnx.Rngs) -> nnx.Module:
        """Returns a `TokenClassifier` over a backbone of `model_config`."""
        backbone = make_backbone(model_config, runtime, rngs=rngs)
        return TokenClassifier(
            backbone,
            num_labels=len(self.labels),
            dropout=self.head_dropout,
            initializer_range=model_config.initializer_range,
            rngs=rngs,
            head_class=self.head_class,
        )

    def _loss(
        self, model: nnx.Module, logits: jax.Array, batch: dict[str, jax.Array]
    ) -> tuple[jax.Array, jax.Array]:
        return cross_entropy.cross_entropy(
            logits,
            batch["labels"],
            batch["weights"],
            label_smoothing=self.label_smoothing,
            focal_gamma=self.focal_gamma,
            class_weights=None if self.class_weights is None else jnp.asarray(self.class_weights),
        )

    def loss(self, model, batch, dropout: DropoutSeed | None):
        """Returns the cross-entropy summed over labelled subwords, and their number; see `loss_with_r_drop`."""
        return loss_with_r_drop(
            lambda dropout: _logits(model, batch, dropout, batch["weights"] > 0),
            lambda logits: self._loss(model, logits, batch),
            lambda first, second: cross_entropy.symmetric_divergence(first, second, batch["weights"]),
            self.r_drop,
            dropout,
        )

    def logits(self, model, batch) -> jax.Array:
        """Returns the logits of all labels at all subwords without dropout, float32 [R, L, C]."""
        return _logits(model, batch)

    def head_order(self, hf_config: Mapping[str, Any]) -> list[int] | None:
        """Returns the numbers of the labels in the head of a checkpoint with the same labels."""
        return find_head_order(hf_config, "ForTokenClassification", self.labels)

    def to_transformers(self, parameters):
        """Returns the parameters unchanged."""
        return parameters

    def predict(self, model, batch):
        """Returns the outputs that `collect` needs for each subword, and the loss."""
        logits = self.logits(model, batch)
        return self._outputs(model, logits), *self._loss(model, logits, batch)

    def _outputs(self, model: nnx.Module, logits: jax.Array) -> dict[str, jax.Array]:
        """Returns {"label": int32 [R, L], "score": float32 [R, L]} of the most probable label."""
        return {
            "label": jnp.argmax(logits, axis=-1).astype(jnp.int32),
            "score": jnp.max(jax.nn.softmax(logits, axis=-1), axis=-1),
        }

    def encode_prompts(self, sentences, tokenizer, config) -> list[list[int]]:
        """Returns no prompts, because tags are not text."""
        return []

    # ---------------------------------------------------------------- evaluation

    def collect(
        self,
        split: Split,
        outputs: Iterable[tuple[Batch, dict[str, np.ndarray]]],
        only: range | None = None,
    ) -> list[Prediction]:
        """Returns a `Prediction` for each sentence, with a tag for every word in sentences of any length.

        Args:
          split: the data set.
          outputs: each batch of the split with the outputs of `predict`.
          only: the range of sentences that have windows, while the others are context; None for all.
        """
        only = range(len(split.examples)) if only is None else only
        lengths = [len(split.examples[index].words) for index in only]
        starts = np.concatenate((np.zeros(only.start, np.int64), [0], np.cumsum(lengths, dtype=np.int64)))
        label, score = self._predict_labels(split, outputs, starts)
        if unscored := int((label < 0).sum()):
            raise AssertionError(f"{unscored} words of {split.name} were not scored")
        tags = np.array(self.labels)[label].tolist()
        return [
            Prediction(tags[start:end], score[start:end], self.labels_form_entities)
            for start, end in itertools.pairwise(starts[only.start :])
        ]

    def _predict_labels(
        self, split: Split, outputs: Iterable[tuple[Batch, dict[str, np.ndarray]]], starts: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns the label ids of all words, int32 (-1 for an unscored word), and their probabilities, float32.

        Args:
          split: the data set.
          outputs: each batch of the split with the outputs of `predict`.
          starts: int64 [sentences + 1], the index of each sentence's first word, and the number of all words.
        """
        label = np.full(starts[-1], -1, np.int32)
        score = np.zeros(starts[-1], np.float32)
        for batch, arrays in outputs:
            sentence, word, value = word_values(batch, split.windows, arrays["label"])
            label[starts[sentence] + word] = value
            score[starts[sentence] + word] = word_values(batch, split.windows, arrays["score"])[2]
        return label, score

    def predict_stream(
        self,
        sentences: Iterable[Sentence],
        tokenizer: "PreTrainedTokenizerBase",
        config: Settings,
        outputs: Callable[[Windows], Iterable[tuple[Batch, dict[str, np.ndarray]]]],
        *,
        max_words: int,
    ) -> Iterator[list[tuple[Sentence, Prediction]]]:
        """Predicts sentences while they arrive; yields chunks of (sentence, prediction) in order.

        Args:
          sentences: the sentences; None where the next one may take long to arrive. Those before it are then predicted,
            unless they have context, which may still arrive.
          tokenizer: the tokenizer.
          config: the run's settings.
          outputs: returns the model's outputs for windows.
          max_words: the most words in a chunk, unless a single sentence has more. Only one chunk is in memory at a
            time. With `config.data.context`, so are as many neighbouring sentences as a window can hold.
        """
        if config.data.context:
            arrived = (sentence for sentence in sentences if sentence is not None)
            chunks = chunk_sentences(arrived, max_words, config.data.max_length)
        else:
            groups = group_by_words(sentences, _count_words, max_words)
            chunks = (SentenceChunk(group, 0, len(group)) for group in groups)
        for chunk in chunks:
            predicted = range(chunk.first, chunk.last)
            windows = self.encode(chunk.sentences, tokenizer, config, only=predicted, cached=False)
            split = Split("input", "input", chunk.sentences, windows)
            predictions = self.collect(split, outputs(windows), only=predicted)
            yield list(zip(chunk.sentences[chunk.first : chunk.last], predictions, strict=True))

    def tune(self, split: Split, predictions) -> None:
        """Does nothing, because there is nothing to tune."""

    def measure(
        self, split: Split, predictions: list[Prediction], loss_sum: float, weight_sum: float
    ) -> EntityState | LabelState:
        """Returns the metric state for words and, if labels form entities, for entities."""
        tags = [prediction.tags for prediction in predictions]
        return evaluation.make_tag_state(self.labels_form_entities, split, tags, loss_sum, weight_sum)

    def metric_names(self, split: Split) -> list[str]:
        """Returns the names of the metrics that `measure` computes on a split."""
        weight = float((split.windows.labels >= 0).any())
        gold = [sentence.tags for sentence in split.examples]
        return list(evaluation.make_tag_state(self.labels_form_entities, split, gold, 0.0, weight).compute())

    def summarize(self, values: dict[str, float]) -> str:
        """Returns F1, token accuracy and loss as a line of the log."""
        return evaluation.summarize(values)

    def find_seen(
        self, split: Split, predictions: list[Prediction], train: Sequence[Sentence]
    ) -> list[tuple[list[str], list[str]]]:
        """Returns (words, types) of the entities of `train` that are also gold or predicted entities of the split."""
        if not self.labels_form_entities:
            return []
        return evaluation.find_seen_entities(split, [prediction.tags for prediction in predictions], train)

    def write_evaluation(
        self,
        folder: Path,
        split: Split,
        state: EntityState | LabelState,
        predictions: list[Prediction],
        *,
        seen: Sequence[tuple[list[str], list[str]]],
        samples: int,
        seed: int,
        console: Console,
    ) -> dict[str, float]:
        """Writes the files of an evaluation, prints its report and returns the metrics; see `write_report`."""
        tags = [prediction.tags for prediction in predictions]
        intervals = state.intervals(samples=samples, seed=seed) if samples else None
        return evaluation.write_report(folder, split, state, tags, seen, intervals, console)


def _logits(model, batch, dropout=None, output_mask=None):
    return model(Inputs.from_batch(batch), dropout=dropout, output_mask=output_mask)


def _count_words(sentence: Sentence) -> int:
    return max(len(sentence.words), 1)
