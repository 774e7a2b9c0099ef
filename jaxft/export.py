"""Writes a run's best weights as a folder for PyTorch: `python -m jaxft.export --run RUN --output DIR`."""

import argparse
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow as pa

from jaxft import export_heads
from jaxft.cli.command import command
from jaxft.data.encoding.windows import Windows
from jaxft.errors import UserError
from jaxft.hub.files import write_model_folder
from jaxft.hub.weights import save_weights
from jaxft.inference.model import Model, open_model
from jaxft.io import write_json
from jaxft.model_card import card
from jaxft.models.bert import config as bert_config
from jaxft.models.gpt2 import config as gpt2_config
from jaxft.models.registry import family_of
from jaxft.parallel import processes
from jaxft.tasks import TASKS
from jaxft.tasks.base import Split
from jaxft.training import step
from jaxft.training.finished_run import Run, open_run
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


def main(argv: list[str] | None = None) -> None:
    """Parses the flags and exports."""
    parser = argparse.ArgumentParser(
        prog="python -m jaxft.export",
        description="Writes a run's best weights as a folder that transformers' AutoModel loads.",
        allow_abbrev=False,
    )
    parser.add_argument("--run", required=True, help="the --workdir of a run")
    parser.add_argument("--output", required=True, help="new or empty folder")
    parser.add_argument(
        "--verify", action="store_true", help="reload in torch and compare logits on dev data"
    )
    with command(parser, argv) as flags:
        if processes.count() > 1:
            raise UserError("an export is written by one process: start it once, without --coordinator")
        export(Path(flags.run), Path(flags.output), verify=flags.verify)


def export(run_folder: Path, output: Path, *, verify: bool = False) -> None:
    """Writes `output` with weights, config.json, tokenizer and model card, whole or not at all.

    What transformers has no class for, the scores of a CRF or several heads, comes as a file beside, with a loader
    for torch.

    Raises `UserError` where there is no run, `output` is not empty or cannot be written, or with `verify`
    torch is missing, its logits differ by more than `TOLERANCE`, or the answers of the loader beside differ.
    """
    if verify and importlib.util.find_spec("torch") is None:
        raise UserError("--verify needs torch, which is not installed: pip install torch, or leave it out")
    run = open_run(run_folder)
    # float32, since that is what torch will compute in.
    model = open_model(run, print, dtype="float32")
    parameters = model.task.exported(jax.device_get(model.parameters))
    family = family_of(run.checkpoint.hf_config)
    if export_heads.are_needed(run):
        parameters = {name: value for name, value in parameters.items() if name.startswith("body/")}
        config = family.config.backbone_config(run.checkpoint.hf_config)
    else:
        config = CONFIGS[run.config.task](run)
    tensors = save_weights(family.table, parameters)
    dev = _dev_split(model) if verify else None

    def add_files(folder: Path) -> None:
        run.checkpoint.tokenizer.save_pretrained(folder)
        if model.task.predicts_words:
            write_json(
                folder / "generation_config.json", gpt2_config.generation_config(run.checkpoint.tokenizer)
            )
        if export_heads.are_written(run):
            export_heads.write(model, folder)
        difference = None
        if dev is not None:
            difference = largest_difference(model, dev.windows, folder)
            print(
                f"largest difference of logits between jax and torch: {difference:.2e} "
                f"({len(dev.windows)} windows of dev, float32)"
            )
            if not difference <= TOLERANCE:
                raise UserError(
                    f"torch's logits differ from ours by {difference:.2e}, more than {TOLERANCE:.0e}: "
                    f"{output} was not written; please report this with the model's config.json"
                )
            if export_heads.are_written(run):
                export_heads.check_answers(model, dev, folder, output)
        (folder / "README.md").write_text(card.write(run, model.net.count, difference), encoding="utf-8")

    write_model_folder(output, tensors, config, also=add_files)
    labels = f"{len(run.labels)} labels, " if run.labels else ""
    print(f"{output}: {model.net.count:,} parameters, {labels}tokenizer, README.md")


def _token_classifier(run: Run) -> dict[str, Any]:
    checkpoint = run.checkpoint
    return family_of(checkpoint.hf_config).config.token_classifier_config(checkpoint.hf_config, run.labels)


def _causal_lm(run: Run) -> dict[str, Any]:
    return gpt2_config.causal_lm_config(run.checkpoint.hf_config, run.checkpoint.hf_config["vocab_size"])


def _sequence_classifier(run: Run) -> dict[str, Any]:
    hf_config = run.checkpoint.hf_config
    return family_of(hf_config).config.sequence_classifier_config(
        hf_config, run.labels, run.config.model.problem_type, run.tuned, run.checkpoint.tokenizer.pad_token_id
    )


def _question_answering(run: Run) -> dict[str, Any]:
    return bert_config.question_answering_config(run.checkpoint.hf_config, run.labels, run.tuned)


# The config.json of an export that has a class of transformers, by task.
CONFIGS = {
    "token_classification": _token_classifier,
    "crf_tagging": _token_classifier,
    "causal_lm": _causal_lm,
    "sequence_classification": _sequence_classifier,
    "question_answering": _question_answering,
}


def _dev_split(model: Model) -> Split:
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
    if export_heads.are_needed(model.run):
        ask = export_heads.load(folder).logits

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


if __name__ == "__main__":
    main()
