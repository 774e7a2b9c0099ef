"""Causal language modelling: predicts the next token of documents, or of targets that follow prompts."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from rich.console import Console

from jaxft.config.sections import Settings
from jaxft.data.batching.batch import TOKEN_LABELS, Batch, BatchSpec
from jaxft.data.encoding.documents import encode_documents, encode_prompts
from jaxft.data.encoding.windows import Windows
from jaxft.data.ragged import ragged_arange
from jaxft.data.sources.dev_split import choose_dev_examples, cut_document
from jaxft.data.sources.documents import Document, read_documents
from jaxft.data.sources.mapped_documents import MappedDocuments, hash_documents
from jaxft.errors import UserError
from jaxft.io.files import write_json, write_lines
from jaxft.layers.dropout import DropoutSeed
from jaxft.layers.heads.causal_lm import LanguageModel
from jaxft.layers.inputs import Inputs
from jaxft.losses import chunked
from jaxft.metrics.generated_text import GeneratedTextState
from jaxft.metrics.language_model import LanguageModelState
from jaxft.models.model_config import ModelConfig
from jaxft.models.registry import make_backbone
from jaxft.models.runtime import Runtime
from jaxft.tasks.base import Log, Split, cache_folder, count_set_in_any_process
from jaxft.tasks.lines import prediction_lines
from jaxft.tasks.settings import make_file_format

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHOWN, SHOWN_CHARACTERS = 3, 200  # the most generated targets, and characters of each, that are printed


@dataclasses.dataclass(frozen=True)
class Scores:
    """The scores of each window of a split, summed over its labelled tokens."""

    nll: np.ndarray  # float64 [N], nats
    correct: np.ndarray  # int64 [N], number of tokens whose label has the highest logit
    tokens: np.ndarray  # int64 [N]
    generated: list[str] = dataclasses.field(default_factory=list)  # the generated targets of the first pairs


class CausalLM:
    """Next-token prediction by GPT-2, whose output layer is its word embeddings.

    Predictions are the `Scores` of a split.
    """

    model_types = ("gpt2",)
    reads_words = False
    example_input = "Once upon a time"
    predicts_tokens = True
    batch_spec = BatchSpec(TOKEN_LABELS)
    compares_with_train = False
    selection_metric = "loss"
    backbone_passes = 1

    def __init__(self, labels: list[str], *, head_dropout: float, config: Settings):
        self.labels = labels
        self.tuned = {}
        self.method = _method(config)

    @staticmethod
    def read(config: Settings, name: str, source: str, log: Log) -> MappedDocuments:
        """Returns the nonempty texts of `source`, and logs the numbers of nonempty and empty texts."""
        data, characters, empty = config.data, 0, 0

        def nonempty_texts() -> Iterator[Document]:
            nonlocal characters, empty
            options = {
                "format": make_file_format(data),
                "documents": data.documents,
                "template": data.template,
            }
            for text in read_documents(source, columns=dict(data.columns), log=log, **options):
                if text.text.strip():
                    characters += len(text.text)
                    yield text
                else:
                    empty += 1

        texts = MappedDocuments.from_documents(nonempty_texts())
        noun = "documents" if data.template is None else "targets of prompts"
        if not texts:
            raise UserError(f"{name}: {source}: all {empty} {noun} are empty; name a source that has some")
        omission = f"; {empty:,} empty ones left out" if empty else ""
        log(f"{name}: {source}: {len(texts):,} {noun}, {characters:,} characters{omission}")
        return texts

    @staticmethod
    def split_dev(
        texts: MappedDocuments, fraction: float, seed: int
    ) -> tuple[Sequence[Document], Sequence[Document]]:
        """Splits texts into (train, dev). A single text is cut in two."""
        if len(texts) == 1:
            train, dev = cut_document(texts[0], fraction)
            return [train], [dev]
        chosen = np.array(choose_dev_examples(texts.document_ids, fraction, seed))
        return texts.select(~chosen), texts.select(chosen)

    @staticmethod
    def find_labels(texts: Sequence[Document]) -> list[str]:
        """Returns no labels."""
        return []

    @staticmethod
    def make_labels(found_labels: Sequence[str]) -> list[str]:
        """Returns no labels, because the outputs are the tokenizer's vocabulary."""
        return []

    @staticmethod
    def iterate_texts(train: Sequence[Document]) -> Iterator[str]:
        """Yields prompts with their targets, or documents."""
        return ((text.prompt or "") + text.text for text in train)

    def check(self, split: Split, train: Sequence[Document], log: Log) -> None:
        """Warns about texts that are also in `train`, and logs the number of pairs that do not fit their windows."""
        name, texts, windows = split.name, split.examples, split.windows
        if texts is not train:
            if shared := count_set_in_any_process(np.isin(hash_documents(texts), hash_documents(train))):
                log(f"warning: {shared:,} of {len(texts):,} texts of {name} stand word for word in train")
        if texts[0].prompt is not None:
            for field, level in (("prompt", ""), ("target", "warning: ")):
                lost_tokens = windows.column(f"{field}_lost")
                if count := np.count_nonzero(lost_tokens):
                    log(
                        f"{level}{name}: {count:,} of {len(texts):,} {field}s are shortened, by {lost_tokens.max()} "
                        "tokens at most, to fit config.data.max_length"
                    )

    def encode(
        self,
        texts: Sequence[Document],
        tokenizer: "PreTrainedTokenizerBase",
        config: Settings,
        *,
        only: range | None = None,
        cached: bool = True,
    ) -> Windows:
        """Returns the windows of texts; see `encode_documents`."""
        data = config.data
        return encode_documents(
            texts if only is None else texts[only.start : only.stop],
            tokenizer,
            max_length=data.max_length,
            layout=data.layout,
            stride=data.stride,
            cache_dir=cache_folder(data.cache_dir) if cached else None,
        )

    def output_counts(self, windows: Windows) -> np.ndarray:
        """Returns the number of labelled tokens of each window."""
        return windows.label_counts

    def build_model(self, model_config: ModelConfig, runtime: Runtime, rngs: nnx.Rngs) -> nnx.Module:
        """Returns a `LanguageModel` over a GPT-2 backbone of `model_config`."""
        return LanguageModel(make_backbone(model_config, runtime, rngs=rngs))

    def loss(self, model, batch, dropout: DropoutSeed | None):
        """Returns the cross-entropy in nats, summed over the labelled tokens, and the number of these tokens."""
        return chunked.chunked_cross_entropy(*_flat(model, batch, dropout), mesh=_mesh(model))

    def logits(self, model, batch) -> jax.Array:
        """Returns the logits of every next token without dropout, float32 [R, L, vocabulary]."""
        return model(Inputs.from_batch(batch))

    def head_order(self, hf_config: Mapping[str, Any]) -> list[int] | None:
        """Returns None: there is no head."""
        return None

    def to_transformers(self, parameters):
        """Returns the parameters unchanged."""
        return parameters

    def predict(self, model, batch):
        """Returns {"nll": float32 [R, L] (nats), "correct": bool [R, L]}, 0 and False without a label; and the loss."""
        shape = batch["labels"].shape
        hidden, embedding, labels, weights = _flat(model, batch, None)
        nll, correct = chunked.chunked_scores(hidden, embedding, labels, weights, mesh=_mesh(model))
        outputs = {"nll": nll.reshape(shape), "correct": correct.reshape(shape)}
        return outputs, jnp.sum(nll * weights), jnp.sum(weights)

    def encode_prompts(self, texts: Sequence[Document], tokenizer, config: Settings) -> list[list[int]]:
        """Returns the token ids of prompts, cut to leave room for `config.eval.max_new_tokens`; [] for documents."""
        if config.data.template is None:
            return []
        room = config.data.max_length - config.eval.max_new_tokens
        return encode_prompts(texts[: config.eval.generate], tokenizer, room)

    def collect(self, split: Split, outputs: Iterable[tuple[Batch, dict[str, np.ndarray]]]) -> Scores:
        """Returns the `Scores` of the split's windows."""
        count = len(split.windows)
        nll, correct = np.zeros(count), np.zeros(count, np.int64)
        for batch, arrays in outputs:
            row, segment = np.nonzero(batch.windows >= 0)
            window = batch.windows[row, segment]
            size = split.windows.lengths[window]
            row_length = arrays["nll"].shape[1]
            position = ragged_arange(row * row_length + batch.starts[row, segment], size)
            window_of_token = np.repeat(window, size)
            token_nll = arrays["nll"].ravel()[position].astype(np.float64)
            nll += np.bincount(window_of_token, token_nll, minlength=count)
            is_correct = arrays["correct"].ravel()[position]
            correct += np.bincount(window_of_token[is_correct], minlength=count)
        window_of_token = np.repeat(np.arange(count), split.windows.lengths)
        tokens = np.bincount(window_of_token[split.windows.labels >= 0], minlength=count)
        return Scores(nll, correct, tokens)

    def tune(self, split: Split, predictions) -> None:
        """Does nothing, because there is nothing to tune."""

    def measure(self, split: Split, scores: Scores, loss_sum: float, weight_sum: float) -> LanguageModelState:
        """Returns the metric state of perplexities and accuracy, from sums in float64."""
        return _state(split, scores)

    def metric_names(self, split: Split) -> list[str]:
        """Returns the names of the metrics that `measure` computes on a split."""
        ones = np.ones(len(split.windows), np.int64)
        return list(_state(split, Scores(ones, ones, ones)).compute())

    def summarize(self, values: dict[str, float]) -> str:
        """Returns loss, perplexity, bits per byte and accuracy as a line of the log."""
        return (
            f"loss {values['loss']:.4f}, perplexity {values['perplexity']:.2f} a token, "
            f"{values['bits_per_byte']:.3f} bits a byte, token accuracy {100 * values['token_accuracy']:.2f}"
        )

    def write_evaluation(
        self,
        folder: Path,
        split: Split,
        state: LanguageModelState,
        scores: Scores,
        *,
        seen: Sequence[Any],
        samples: int,
        seed: int,
        console: Console,
    ) -> dict[str, float]:
        """Writes and prints eval/NAME.json and the generated targets (predictions/NAME.jsonl); returns the metrics."""
        metrics = state.compute()
        pairs = list(zip(split.examples, scores.generated, strict=False))
        if pairs:
            generated_state = GeneratedTextState()
            for text, target in pairs:
                generated_state.update(target, text.references)
            metrics |= generated_state.compute()
        record = {
            "data": split.source,
            "texts": len(split.examples),
            "method": self.method,
            "metrics": metrics,
        }
        write_json(folder / "eval" / f"{split.name}.json", record)
        console.print(f"{split.name} ({split.source}), {self.method}:")
        for name, value in metrics.items():
            console.print(f"  {name:<16} {value:,.4f}" if value % 1 else f"  {name:<16} {value:,.0f}")
        if pairs:
            _write_generated(folder / "predictions" / f"{split.name}.jsonl", pairs, console)
        return metrics


def _write_generated(path: Path, pairs: Sequence[tuple[Document, str]], console: Console) -> None:
    """Writes the generated target of each prompt as a JSON line, and prints the first ones."""
    records = [
        {"prompt": text.prompt, "references": text.references, "prediction": target} for text, target in pairs
    ]
    write_lines(path, prediction_lines(records))
    for record in records[:SHOWN]:
        for name, text in (("generated", record["prediction"]), ("reference", record["references"][0])):
            console.print(f"  {name}: {' '.join(text.split())[:SHOWN_CHARACTERS]}", markup=False)


def _method(config: Settings) -> str:
    """Describes how texts are cut into windows, because the perplexity depends on it."""
    data = config.data
    if data.template is not None:
        return f"targets and their end given the prompt, in windows of {data.max_length} tokens"
    if data.layout == "blocks":
        return (
            f"all documents in a row, in blocks of {data.max_length} tokens, the first of each not predicted "
            "(grouped as by transformers' run_clm.py, which puts no end of text between them)"
        )
    context = f"sliding windows of {data.max_length} tokens, {data.stride} of them context"
    plain = f"windows of {data.max_length} tokens without context from the window before"
    return f"every token and the end of each document, longer ones in {context if data.stride else plain}"


def _flat(model, batch, dropout) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Returns hidden states [R * L, D], the output embedding [vocabulary, D], labels [R * L] and weights [R * L]."""
    hidden = model.backbone(Inputs.from_batch(batch), dropout, batch["weights"] > 0)
    return (
        hidden.reshape(-1, hidden.shape[-1]),
        model.backbone.embeddings.word.embedding[...],
        batch["labels"].ravel(),
        batch["weights"].ravel(),
    )


def _mesh(model) -> Mesh | None:
    """Returns the mesh over which the backbone shards its activations, or None for a single device."""
    sharding = model.backbone.runtime.activations
    return None if sharding is None else sharding.mesh


def _state(split: Split, scores: Scores) -> LanguageModelState:
    return LanguageModelState(
        nll=float(scores.nll.sum()),
        token_count=int(scores.tokens.sum()),
        correct_count=int(scores.correct.sum()),
        word_count=int(split.windows.column("text_words").sum(dtype=np.int64)),
        byte_count=int(split.windows.column("text_bytes").sum(dtype=np.int64)),
    )
