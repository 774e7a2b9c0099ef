"""Compares an export in PyTorch with the JAX model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow as pa

from jaxft.data.encoding.windows import Windows
from jaxft.errors import UserError
from jaxft.export import heads
from jaxft.inference.model import Model
from jaxft.tasks import TASKS
from jaxft.tasks.base import Split
from jaxft.training import step
from jaxft.training.splits import read_splits

TOLERANCE = 1e-4  # of logits, in float32


VERIFIED = 256  # dev examples compared, or as many as this many logits are of


VERIFIED_LOGITS = 1 << 27


TORCH_ROWS = 16


# The class of transformers that loads an export, by task, but of those that `export_heads.are_needed` for.
TORCH_CLASSES = {
    "token_classification": "AutoModelForTokenClassification",
    "crf_tagging": "AutoModelForTokenClassification",
    "causal_lm": "AutoModelForCausalLM",
    "sequence_classification": "AutoModelForSequenceClassification",
    "question_answering": "AutoModelForQuestionAnswering",
}


def read_dev_split(model: Model) -> Split:
    """The first dev examples, and as many of their windows as there is room for logits."""
    run = model.run
    try:
        dev = read_splits(TASKS[run.config.task], run.config, print, ["dev"])["dev"]
    except UserError as error:
        raise UserError(f"--verify compares on the run's dev data, which cannot be read: {error}") from None
    examples = dev.examples[:VERIFIED]
    windows = model.task.encode(examples, run.checkpoint.tokenizer, run.config, cached=False)
    classes = len(run.labels) or run.checkpoint.hf_config["vocab_size"]
    count = np.searchsorted(windows.offsets, VERIFIED_LOGITS // classes, side="right") - 1
    windows = Windows(windows.rows.take(pa.array(np.arange(max(count, 1)))))  # a slice would keep its offsets
    return Split("dev", dev.source, examples, windows)


def largest_difference(model: Model, windows: Windows, folder: Path) -> float:
    """The largest absolute difference of a logit between `model`, on packed rows, and `folder` in torch."""
    references = _torch_logits(model, windows, folder)

    @jax.jit
    def logits(parameters: dict[str, jax.Array], batch: dict[str, jax.Array]) -> Any:
        with jax.default_matmul_precision("highest"):  # on accelerators the default is less than float32
            return model.task.logits(step.model_of(model.net.graphdef, parameters), batch)

    # Few rows: logits of a vocabulary are large.
    loader = model.loader(windows, pack=True, rows=len(jax.devices()))
    largest, compared = 0.0, 0
    for index in range(loader.steps_per_epoch):
        batch = loader.batch(index)
        outputs = logits(model.parameters, batch.arrays)
        for name, head in (outputs if isinstance(outputs, dict) else {None: outputs}).items():
            ours, reference = np.asarray(head), references[name]  # [R, L, C], or of segments [R, S, C]
            for row, segment in zip(*np.nonzero(batch.windows >= 0), strict=True):
                theirs = reference[batch.windows[row, segment]]  # [length of the window, C], or [C]
                start = batch.starts[row, segment]
                one = ours[row, segment] if theirs.ndim == 1 else ours[row, start : start + len(theirs)]
                largest = max(largest, float(np.nan_to_num(np.abs(one - theirs).max(), nan=np.inf)))
                compared += 1
    if compared != (total := sum(map(len, references.values()))):
        raise AssertionError(f"{compared} of {total} windows were compared")
    return largest


def _torch_logits(model: Model, windows: Windows, folder: Path) -> dict[str | None, Sequence[Any]]:
    """Logits of each window, `[length, C]` or `[C]`, one a row, from transformers' class for the task on `folder`.

    Where transformers has none they are the loader's in `folder`. They come under None, of several tasks by name.
    """
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    pad = model.run.checkpoint.tokenizer.pad_token_id
    if heads.needs_heads_only(model.run):
        ask = heads.load_exported(folder).logits

        def network(**inputs):
            found = ask(**inputs)
            return found if model.run.config.task == "multi_task" else {None: next(iter(found.values()))}
    else:
        name = TORCH_CLASSES[model.run.config.task]
        classifier = getattr(transformers, name).from_pretrained(folder, local_files_only=True).eval()

        def network(**inputs):
            found = classifier(**inputs)
            if "start_logits" in found:
                return {None: torch.stack([found.start_logits, found.end_logits], dim=-1).float().numpy()}
            return {None: found.logits.float().numpy()}

    out: dict[str | None, list[Any]] = {}
    for first in range(0, len(windows), TORCH_ROWS):
        pieces = [
            slice(*windows.offsets[w : w + 2]) for w in range(first, min(first + TORCH_ROWS, len(windows)))
        ]

        def padded(values: np.ndarray, filler: int = 0, pieces=pieces) -> torch.Tensor:
            rows = [torch.tensor(values[piece]).long() for piece in pieces]
            return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=filler)

        inputs = {
            "input_ids": padded(windows.input_ids, pad),
            "attention_mask": padded(np.ones_like(windows.input_ids)),
        }
        # A GPT-2 would add them to the words.
        if windows.has("token_type_ids") and model.run.checkpoint.hf_config["model_type"] == "bert":
            inputs["token_type_ids"] = padded(windows.column("token_type_ids"))
        with torch.inference_mode():
            found = network(**inputs)
        for head, logits in found.items():
            cut = logits.ndim == 3
            rows = (one[: p.stop - p.start] if cut else one for one, p in zip(logits, pieces, strict=True))
            out.setdefault(head, []).extend(rows)
    return out
