"""Token classification: tags for words, read from the hidden state of each word's first subword, or its last."""

import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict
from rich.console import Console

from jaxft.data.batching.batch import TOKEN_LABELS, Batch, word_values
from jaxft.data.encoding.sentences import chunk_sentences, encode_sentences
from jaxft.data.encoding.windows import Windows
from jaxft.data.sources import tag_schemes
from jaxft.data.sources.sentence import Sentence
from jaxft.data.sources.sentences import find_sentence_overlap, read_sentences, split_dev_sentences
from jaxft.errors import UserError
from jaxft.layers.dropout import DropoutSeed
from jaxft.layers.heads import TokenClassifier
from jaxft.layers.inputs import Inputs
from jaxft.layers.linear import Linear
from jaxft.losses import cross_entropy
from jaxft.metrics.entities import EntityState
from jaxft.metrics.tokens import LabelState
from jaxft.models.registry import make_backbone
from jaxft.tasks.base import Log, Split, cache_folder, class_weights, count_anywhere, loss_with_r_drop
from jaxft.tasks.token_classification import report

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclasses.dataclass(frozen=True)
class Prediction:
    """Tags and their probabilities of one sentence, a word each."""

    tags: list[str]
    scores: np.ndarray  # float32 [words]
    entities: bool = True  # whether the tags are IOB2, so that words join into entities


def forms_entities(config: ConfigDict, labels: Sequence[str]) -> bool:
    """Whether labels are IOB2 tags of entities, and no labels of words by themselves."""
    return config.data.scheme != tag_schemes.NO_SCHEME and tag_schemes.is_iob2(labels)


class TokenClassification:
    """Named entities and other labels of words, softmax over IOB2 tags or, without entities, over plain labels."""

    architectures = ("bert", "gpt2")
    reads_words = True
    predicts_tokens = False
    arrays = TOKEN_LABELS
    max_segments = None
    head: type[Linear] = Linear

    def __init__(self, labels: list[str], *, head_dropout: float = 0.1, config: ConfigDict):
        self.labels = labels
        self.tuned = {}
        self.scheme = config.data.scheme
        self.entities = forms_entities(config, labels)
        self.compares_with_train = self.entities  # which count as seen or unseen
        self.selection_metric = "entity_f1" if self.entities else "token_accuracy"
        self.head_dropout = head_dropout
        self.context, self.tag_column = config.data.context, config.data.tag_column
        self.label_smoothing = config.loss.label_smoothing
        self.focal_gamma = config.loss.focal_gamma
        self.r_drop = config.loss.r_drop
        self.backbone_passes = 2 if self.r_drop else 1
        self.class_weights = class_weights(config, labels)

    @staticmethod
    def read(config: ConfigDict, name: str, source: str, log: Log) -> list[Sentence]:
        """All sentences of `source`, tags in IOB2 or plain labels; says how many and where tags were invalid."""
        data = config.data
        sentences = list(
            read_sentences(
                source,
                format=data.format,
                word_column=data.word_column,
                tag_column=data.tag_column,
                columns=dict(data.columns),
                overlaps=data.overlaps,
            )
        )
        converted, conversion = tag_schemes.convert_sentences_to_iob2(
            sentences, None if data.scheme == "auto" else data.scheme
        )
        plain = conversion.scheme == tag_schemes.NO_SCHEME
        kinds = Counter(kind for s in converted for kind, _, _ in tag_schemes.extract_entities(s.tags))
        if plain:
            kinds = Counter(tag for s in converted for tag in s.tags)
        counts = ", ".join(f"{kind} {count:,}" for kind, count in sorted(kinds.items())) or "none"
        log(f"{name}: {source}: {conversion}; {'labels' if plain else 'entities'}: {counts}")
        return converted

    @staticmethod
    def split_dev(
        sentences: Sequence[Sentence], fraction: float, seed: int
    ) -> tuple[list[Sentence], list[Sentence]]:
        """(train, dev) of sentences; documents stay whole."""
        return split_dev_sentences(sentences, fraction, seed)

    @staticmethod
    def find_labels(sentences: Sequence[Sentence]) -> list[str]:
        """Their tags."""
        return sorted({tag for s in sentences for tag in s.tags})

    @staticmethod
    def make_labels(found: Sequence[str]) -> list[str]:
        """IOB2 labels of the entity types in tags: O first, then B- and I- of each type; or plain labels by name."""
        tags = set(found)
        if not tag_schemes.is_iob2(tags):
            return sorted(tags)
        kinds = sorted({tag[2:] for tag in tags if tag != "O"})
        return ["O"] + [f"{prefix}-{kind}" for kind in kinds for prefix in "BI"]

    @staticmethod
    def iterate_texts(train: Sequence[Sentence]) -> Iterator[str]:
        """The words of each sentence with spaces between."""
        return (" ".join(sentence.words) for sentence in train)

    def check(self, split: Split, train: Sequence[Sentence], log: Log) -> None:
        """Warns of labels that the model cannot predict, and of sentences that stand in `train` as well.

        Raises `UserError` where labels of no scheme were found in one of them, and entities in the other.
        """
        name, sentences = split.name, split.examples
        # Of the training data one part may have none.
        tags = self.labels if sentences is train else {tag for s in sentences for tag in s.tags}
        if set(tags) <= {"O"}:
            log(
                f"warning: {name} ({split.source}) holds no entities; is config.data.tag_column={self.tag_column} "
                "right?"
            )
        unseen = Counter(t for s in sentences for t in s.tags if t not in self.labels)
        if unseen and self.scheme == "auto" and tag_schemes.is_iob2(unseen) != self.entities:
            raise UserError(
                f"{name} ({split.source}): tags such as {next(iter(unseen))!r}, but the model's labels are "
                f"{', '.join(self.labels[:4])}...: entities and labels of no scheme do not mix; set config.data.scheme "
                "to the data's scheme, or to none for labels that are to stay as they are"
            )
        if unseen:
            counts = ", ".join(f"{tag} {count}" for tag, count in sorted(unseen.items()))
            log(f"warning: {name} has labels that train has not; they count as missed: {counts}")
        if sentences is not train and (shared := count_anywhere(find_sentence_overlap(train, sentences))):
            log(f"warning: {shared:,} of {len(sentences):,} sentences of {name} stand word for word in train")
        if sentences is train and self.context and len({s.document for s in train}) == len(train):
            log("warning: config.data.context=True, but each sentence of train is a document of its own")

    def encode(
        self,
        sentences: Sequence[Sentence],
        tokenizer: "PreTrainedTokenizerBase",
        config: ConfigDict,
        *,
        only: range | None = None,
        cached: bool = True,
    ) -> Windows:
        """`Windows` of sentences (`only` some, if given) under the settings; see data/tokenize.py."""
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
        """The labelled subwords."""
        return windows.labelled

    def build_model(self, sizes: dict, rngs: nnx.Rngs) -> nnx.Module:
        """`TokenClassifier` over a backbone of `sizes`."""
        backbone = make_backbone(sizes, rngs=rngs)
        return TokenClassifier(
            backbone,
            num_labels=len(self.labels),
            dropout=self.head_dropout,
            initializer_range=sizes["initializer_range"],
            rngs=rngs,
            head=self.head,
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
        """Cross-entropy summed over the labelled subwords; weight: how many there are. R-Drop: see `loss_with_r_drop`."""
        return loss_with_r_drop(
            lambda masks: _logits(model, batch, masks, batch["weights"] > 0),
            lambda logits: self._loss(model, logits, batch),
            lambda one, other: cross_entropy.symmetric_divergence(one, other, batch["weights"]),
            self.r_drop,
            dropout,
        )

    def logits(self, model, batch) -> jax.Array:
        """Logits of every label at every subword, float32 [R, L, C], without dropout."""
        return _logits(model, batch)

    def to_transformers(self, parameters):
        """As they are."""
        return parameters

    def predict(self, model, batch):
        """What `collect` takes, and the loss."""
        logits = self.logits(model, batch)
        return self._outputs(model, logits), *self._loss(model, logits, batch)

    def _outputs(self, model: nnx.Module, logits: jax.Array) -> dict[str, jax.Array]:
        """{"label": int32 [R, L], "score": float32 [R, L]} of the most probable label."""
        return {
            "label": jnp.argmax(logits, axis=-1).astype(jnp.int32),
            "score": jnp.max(jax.nn.softmax(logits, axis=-1), axis=-1),
        }

    def encode_prompts(self, sentences, tokenizer, config) -> list[list[int]]:
        """None: tags are no text."""
        return []

    def collect(
        self,
        split: Split,
        outputs: Iterable[tuple[Batch, dict[str, np.ndarray]]],
        only: range | None = None,
    ) -> list[Prediction]:
        """One `Prediction` a sentence. Every word gets one, whatever the sentence's length.

        only: the sentences that have windows, the others being context; default all.
        """
        only = range(len(split.examples)) if only is None else only
        words = [len(split.examples[index].words) for index in only]
        first = np.concatenate((np.zeros(only.start, np.int64), [0], np.cumsum(words, dtype=np.int64)))
        label, score = self._decide(split, outputs, first)
        if unscored := int((label < 0).sum()):
            raise AssertionError(f"{unscored} words of {split.name} were not scored")
        tags = np.array(self.labels)[label].tolist()
        return [
            Prediction(tags[a:b], score[a:b], self.entities)
            for a, b in itertools.pairwise(first[only.start :])
        ]

    def _decide(
        self, split: Split, outputs: Iterable[tuple[Batch, dict[str, np.ndarray]]], first: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Of all words, one sentence after another: label id, int32 (-1 for none), and its probability, float32.

        first: int64 [S + 1], where each sentence begins among them and the last ends.
        """
        label = np.full(first[-1], -1, np.int32)
        score = np.zeros(first[-1], np.float32)
        for batch, arrays in outputs:
            sentence, word, value = word_values(batch, split.windows, arrays["label"])
            label[first[sentence] + word] = value
            score[first[sentence] + word] = word_values(batch, split.windows, arrays["score"])[2]
        return label, score

    def predict_stream(
        self,
        sentences: Iterable[Sentence],
        tokenizer: "PreTrainedTokenizerBase",
        config: ConfigDict,
        outputs: Callable[[Windows], Iterable[tuple[Batch, dict[str, np.ndarray]]]],
        *,
        max_words: int,
    ) -> Iterator[list[tuple[Sentence, Prediction]]]:
        """Predicts sentences as they come: yields them with their predictions, in order, a chunk at a time.

        outputs: the model's, of all windows. max_words: of a chunk (or one sentence), and with
        `config.data.context` as many of its neighbours as a window can show: all that is held in memory.
        """
        context_words = config.data.max_length if config.data.context else 0
        for chunk in chunk_sentences(sentences, max_words, context_words):
            own = range(chunk.first, chunk.last)
            windows = self.encode(chunk.sentences, tokenizer, config, only=own, cached=False)
            split = Split("input", "input", chunk.sentences, windows)
            predictions = self.collect(split, outputs(windows), only=own)
            yield list(zip(chunk.sentences[chunk.first : chunk.last], predictions, strict=True))

    def tune(self, split: Split, predictions) -> None:
        """Nothing is tuned."""

    def measure(
        self, split: Split, predictions: list[Prediction], loss_sum: float, weight_sum: float
    ) -> EntityState | LabelState:
        """Metrics of a split per word, and of entities where there are such."""
        tags = [p.tags for p in predictions]
        return report.make_tag_state(self.entities, split, tags, loss_sum, weight_sum)

    def metric_names(self, split: Split) -> list[str]:
        """The names of what `measure` gives on `split`."""
        weight = float((split.windows.labels >= 0).any())
        gold = [s.tags for s in split.examples]
        return list(report.make_tag_state(self.entities, split, gold, 0.0, weight).compute())

    def summarize(self, values: dict[str, float]) -> str:
        """The metrics of a log line."""
        return report.summarize(values)

    def find_seen(
        self, split: Split, predictions: list[Prediction], train: Sequence[Sentence]
    ) -> list[tuple[list[str], list[str]]]:
        """Words and types of the entities of `train` that are entities of `split` too, gold or predicted."""
        if not self.entities:
            return []
        return report.find_seen_entities(split, [p.tags for p in predictions], train)

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
        """Writes eval/NAME.json, predictions/NAME.conll and, of entities, errors/NAME.tsv, and prints the report.

        seen: entities that training had. samples: of the bootstrap. Returns the metrics.
        """
        tags = [p.tags for p in predictions]
        intervals = state.intervals(samples=samples, seed=seed) if samples else None
        return report.write_report(folder, split, seen, state, tags, intervals, console)


def _logits(model, batch, dropout=None, output_mask=None):
    return model(Inputs.from_batch(batch), dropout=dropout, output_mask=output_mask)
