"""Causal language modelling: the next token of documents, or of targets that follow prompts."""

import dataclasses
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from rich.console import Console

from jaxft.config.sections import Settings
from jaxft.data.batching.batch import TOKEN_LABELS, Batch
from jaxft.data.encoding.documents import encode_documents, encode_prompts
from jaxft.data.encoding.windows import Windows
from jaxft.data.ragged import ragged_arange
from jaxft.data.sources.documents import Document, cut_document, read_documents
from jaxft.data.sources.mapped_documents import MappedDocuments, hash_documents
from jaxft.data.sources.sentences import choose_dev_examples
from jaxft.errors import UserError
from jaxft.io import write_json, write_lines
from jaxft.layers.dropout import DropoutSeed
from jaxft.layers.heads import LanguageModel
from jaxft.layers.inputs import Inputs
from jaxft.losses import chunked
from jaxft.metrics.generated_text import GeneratedTextState
from jaxft.metrics.language_model import LanguageModelState
from jaxft.models.registry import make_backbone
from jaxft.tasks.base import Log, Split, cache_folder, count_anywhere

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHOWN = 3  # generated targets that are printed


@dataclasses.dataclass(frozen=True)
class Scores:
    """How well each window of a split is predicted, summed over its labelled tokens."""

    nll: np.ndarray  # float64 [N], nats
    correct: np.ndarray  # int64 [N]: tokens whose label has the highest logit
    tokens: np.ndarray  # int64 [N]
    generated: list[str] = dataclasses.field(default_factory=list)  # targets, of the first pairs


class CausalLM:
    """Next-token prediction by GPT-2, its output layer tied to the word embeddings."""

    architectures = ("gpt2",)
    reads_words = False
    predicts_tokens = True
    arrays = TOKEN_LABELS
    max_segments = None
    compares_with_train = False
    selection_metric = "loss"
    backbone_passes = 1

    def __init__(self, labels: list[str], *, head_dropout: float, config: Settings):
        self.labels = labels
        self.tuned = {}
        self.method = _method(config)

    @staticmethod
    def read(config: Settings, name: str, source: str, log: Log) -> MappedDocuments:
        """All texts of `source` that are not empty; says how many there are, and how many were."""
        data, sizes, empty = config.data, 0, 0

        def kept() -> Iterator[Document]:
            nonlocal sizes, empty
            options = {"format": data.format, "documents": data.documents, "template": data.template}
            for text in read_documents(source, columns=dict(data.columns), **options):
                if text.text.strip():
                    sizes += len(text.text)
                    yield text
                else:
                    empty += 1

        texts = MappedDocuments.from_documents(kept())
        what = "documents" if data.template is None else "targets of prompts"
        if not texts:
            raise UserError(f"{name}: {source}: all {empty} {what} are empty; name a source that has some")
        left_out = f"; {empty:,} empty ones left out" if empty else ""
        log(f"{name}: {source}: {len(texts):,} {what}, {sizes:,} characters{left_out}")
        return texts

    @staticmethod
    def split_dev(
        texts: MappedDocuments, fraction: float, seed: int
    ) -> tuple[Sequence[Document], Sequence[Document]]:
        """(train, dev) of texts; a single one is cut in two."""
        if len(texts) == 1:
            train, dev = cut_document(texts[0], fraction)
            return [train], [dev]
        chosen = np.array(choose_dev_examples(texts.document_ids, fraction, seed))
        return texts.select(~chosen), texts.select(chosen)

    @staticmethod
    def find_labels(texts: Sequence[Document]) -> list[str]:
        """Nothing."""
        return []

    @staticmethod
    def make_labels(found: Sequence[str]) -> list[str]:
        """None: the vocabulary is the tokenizer's."""
        return []

    @staticmethod
    def iterate_texts(train: Sequence[Document]) -> Iterator[str]:
        """Prompts with their targets, or documents."""
        return ((text.prompt or "") + text.text for text in train)

    def check(self, split: Split, train: Sequence[Document], log: Log) -> None:
        """Warns of texts that stand in `train` as well, and says which pairs don't fit their windows."""
        name, texts, windows = split.name, split.examples, split.windows
        if texts is not train:
            if shared := count_anywhere(np.isin(hash_documents(texts), hash_documents(train))):
                log(f"warning: {shared:,} of {len(texts):,} texts of {name} stand word for word in train")
        if texts[0].prompt is not None:
            for part, what in (("prompt", ""), ("target", "warning: ")):
                if count := np.count_nonzero(lost := windows.column(f"{part}_lost")):
                    log(
                        f"{what}{name}: {count:,} of {len(texts):,} {part}s are shortened, by {lost.max()} tokens "
                        "at most, to fit config.data.max_length"
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
        """`Windows` of texts (`only` some, if given) under the settings; see data/language.py."""
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
        """The labelled tokens."""
        return windows.label_counts

    def build_model(self, sizes: dict, rngs: nnx.Rngs) -> nnx.Module:
        """`LanguageModel` over a GPT-2 backbone of `sizes`."""
        return LanguageModel(make_backbone(sizes, rngs=rngs))

    def loss(self, model, batch, dropout: DropoutSeed | None):
        """Cross-entropy in nats summed over the labelled tokens; weight: how many there are."""
        return chunked.chunked_cross_entropy(*_flat(model, batch, dropout), mesh=_mesh(model))

    def logits(self, model, batch) -> jax.Array:
        """Logits of every next token, float32 [R, L, V], without dropout."""
        return model(Inputs.from_batch(batch))

    def to_transformers(self, parameters):
        """As they are."""
        return parameters

    def predict(self, model, batch):
        """{"nll": float32 [R, L] in nats, "correct": bool [R, L]}, 0 and False without a label, and the loss."""
        shape = batch["labels"].shape
        hidden, embedding, labels, weights = _flat(model, batch, None)
        nll, correct = chunked.chunked_scores(hidden, embedding, labels, weights, mesh=_mesh(model))
        outputs = {"nll": nll.reshape(shape), "correct": correct.reshape(shape)}
        return outputs, jnp.sum(nll * weights), jnp.sum(weights)

    def encode_prompts(self, texts: Sequence[Document], tokenizer, config: Settings) -> list[list[int]]:
        """Token ids of the prompts, shortened so that `config.eval.max_new_tokens` have room; none of documents."""
        if config.data.template is None:
            return []
        room = config.data.max_length - config.eval.max_new_tokens
        return encode_prompts(texts[: config.eval.generate], tokenizer, room)

    def collect(self, split: Split, outputs: Iterable[tuple[Batch, dict[str, np.ndarray]]]) -> Scores:
        """`Scores` of the split's windows."""
        count = len(split.windows)
        nll, correct = np.zeros(count), np.zeros(count, np.int64)
        for batch, arrays in outputs:
            row, segment = np.nonzero(batch.windows >= 0)
            window = batch.windows[row, segment]
            size = split.windows.lengths[window]
            place = ragged_arange(row * arrays["nll"].shape[1] + batch.starts[row, segment], size)
            owner = np.repeat(window, size)
            nll += np.bincount(owner, arrays["nll"].ravel()[place].astype(np.float64), minlength=count)
            correct += np.bincount(owner[arrays["correct"].ravel()[place]], minlength=count)
        owner = np.repeat(np.arange(count), split.windows.lengths)
        return Scores(nll, correct, np.bincount(owner[split.windows.labels >= 0], minlength=count))

    def tune(self, split: Split, predictions) -> None:
        """Nothing is tuned."""

    def measure(self, split: Split, scores: Scores, loss_sum: float, weight_sum: float) -> LanguageModelState:
        """Perplexities and accuracy of a split, from sums in float64."""
        return _state(split, scores)

    def metric_names(self, split: Split) -> list[str]:
        """The names of what `measure` gives on `split`."""
        one = np.ones(len(split.windows), np.int64)
        return list(_state(split, Scores(one, one, one)).compute())

    def summarize(self, values: dict[str, float]) -> str:
        """The metrics of a log line."""
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
        """Writes eval/NAME.json, generated targets to predictions/NAME.jsonl, prints both. Returns the metrics."""
        metrics = state.compute()
        pairs = list(zip(split.examples, scores.generated, strict=False))
        if pairs:
            made = GeneratedTextState()
            for text, target in pairs:
                made.update(target, text.references)
            metrics |= made.compute()
        result = {
            "data": split.source,
            "texts": len(split.examples),
            "method": self.method,
            "metrics": metrics,
        }
        write_json(folder / "eval" / f"{split.name}.json", result)
        console.print(f"{split.name} ({split.source}), {self.method}:")
        for name, value in metrics.items():
            console.print(f"  {name:<16} {value:,.4f}" if value % 1 else f"  {name:<16} {value:,.0f}")
        lines = [
            {"prompt": text.prompt, "references": text.references, "prediction": target}
            for text, target in pairs
        ]
        if lines:
            path = folder / "predictions" / f"{split.name}.jsonl"
            write_lines(path, (json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
            for line in lines[:SHOWN]:
                for name, text in (("generated", line["prediction"]), ("reference", line["references"][0])):
                    console.print(f"  {name}: {text.strip()}", markup=False)
        return metrics


def _method(config: Settings) -> str:
    """How a text is cut into what is measured, which its perplexity depends on."""
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
    """Hidden states [R * L, D], the output embedding, labels [R * L] and weights [R * L]."""
    hidden = model.backbone(Inputs.from_batch(batch), dropout, batch["weights"] > 0)
    return (
        hidden.reshape(-1, hidden.shape[-1]),
        model.backbone.embeddings.word.embedding[...],
        batch["labels"].ravel(),
        batch["weights"].ravel(),
    )


def _mesh(model) -> Mesh | None:
    """The devices that the backbone lays its activations over; None for one."""
    return model.backbone.activations and model.backbone.activations.mesh


def _state(split: Split, scores: Scores) -> LanguageModelState:
    return LanguageModelState(
        nll=float(scores.nll.sum()),
        token_count=int(scores.tokens.sum()),
        correct_count=int(scores.correct.sum()),
        word_count=int(split.windows.column("text_words").sum(dtype=np.int64)),
        byte_count=int(split.windows.column("text_bytes").sum(dtype=np.int64)),
    )
