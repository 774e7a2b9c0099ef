"""Compares an export, in PyTorch, with the JAX model. No other module of jaxft imports torch."""

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxft.config.settings import replace
from jaxft.data.encoding.encoded import Encoded
from jaxft.data.encoding.windows import Windows
from jaxft.data.ragged import ragged_arange
from jaxft.errors import UserError
from jaxft.export import heads
from jaxft.export.adapter import LOADER, find_base
from jaxft.hub import adapter_files
from jaxft.inference.answering import require_answers
from jaxft.inference.model import Model
from jaxft.inference.predict import predict_stream
from jaxft.models.registry import family_of
from jaxft.tasks.base import Split
from jaxft.tasks.registry import head_kind, make_data, make_export
from jaxft.training import step
from jaxft.training.splits import read_splits

TOLERANCE = 1e-4  # for logits, in float32
# The part of dev that is compared: this many examples, but at most this many tokens and logits.
COMPARED_EXAMPLES = 256
COMPARED_TOKENS, COMPARED_LOGITS = 1 << 18, 1 << 27
COMPARED_ANSWERS = 64  # the number of examples for which the loader's answers are compared
TORCH_ROWS, TORCH_SLOTS = 16, 2**13  # the most windows, and slots with padding, that torch computes at once


def read_dev_split(model: Model) -> Split[Any, Any]:
    """Reads the first dev examples, and encodes as many of their windows as the limits allow."""
    run, data = model.run, make_data(model.run.config)
    try:
        dev = read_splits(data, run.config, print, ["dev"])["dev"]
    except UserError as error:
        raise UserError(f"--verify compares on the run's dev data, which cannot be read: {error}") from None
    examples = dev.examples[:COMPARED_EXAMPLES]
    windows = data.encode(examples, run.labels, run.checkpoint.processor, cached=False)
    if isinstance(windows, Windows):
        windows = Windows(windows.record_batch)  # without what a task does to them in a batch, such as masks
    classes = len(run.labels) or run.checkpoint.hf_config["vocab_size"]
    tokens = min(COMPARED_TOKENS, COMPARED_LOGITS // classes)
    count = int(np.searchsorted(np.cumsum(windows.lengths), tokens, side="right"))
    return Split("dev", dev.source, examples, windows.slice(0, max(count, 1)))


def largest_difference(model: Model, windows: Encoded, folder: Path) -> float:
    """Returns the largest absolute difference between logits of `model`, on packed rows, and of `folder` in torch."""
    references = _torch_logits(model, windows, folder)
    only = next(iter(references))  # its name, if there is a single head

    @jax.jit
    def logits(parameters: dict[str, jax.Array], batch: dict[str, jax.Array]) -> Any:
        with jax.default_matmul_precision("highest"):  # accelerators' default is less precise than float32
            return model.task.logits(step.merge_model(model.net.graphdef, parameters), batch)

    # Few rows, because logits over a vocabulary are large.
    loader = model.loader(windows, pack=True, rows=len(jax.devices()))
    largest, compared = 0.0, 0
    for index in range(loader.steps_per_epoch):
        batch = loader.batch(index)
        outputs = logits(model.parameters, batch.arrays)
        for name, head_logits in (outputs if isinstance(outputs, dict) else {only: outputs}).items():
            ours = np.asarray(head_logits)  # [R, L, C], or [R, S, C] for segments
            for row, segment in zip(*np.nonzero(batch.windows >= 0), strict=True):
                reference = references[name][batch.windows[row, segment]]  # [length of the window, C], or [C]
                start = batch.starts[row, segment]
                window_logits = (
                    ours[row, segment] if reference.ndim == 1 else ours[row, start : start + len(reference)]
                )
                difference = np.abs(window_logits - reference).max()
                largest = max(largest, float(np.nan_to_num(difference, nan=np.inf)))
                compared += 1
    if compared != (total := sum(map(len, references.values()))):
        raise AssertionError(f"{compared} of {total} windows were compared")
    return largest


def _torch_logits(model: Model, windows: Encoded, folder: Path) -> Mapping[str | None, Sequence[Any]]:
    """Computes the logits of each window in torch, with one window per row.

    transformers' class for the task computes them from `folder`. Without such a class, the loader in `folder` does.

    Returns:
        For each head by name, or under None if transformers' class computes it: a list over windows of `[length, C]`,
        or `[C]` for texts and images.
    """
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    family, export = family_of(model.run.checkpoint.hf_config), make_export(model.run)
    if not export.has_class:
        loaded = load_exported(folder)

        def network(**inputs: torch.Tensor) -> Mapping[str | None, np.ndarray]:
            return loaded.logits(**inputs)
    else:
        name = family.heads[head_kind(model.run.config.task)].architecture
        classifier = _load_class(getattr(transformers, name), model, folder)

        def network(**inputs: torch.Tensor) -> Mapping[str | None, np.ndarray]:
            outputs = classifier(**inputs)
            if "start_logits" in outputs:
                return {None: torch.stack([outputs.start_logits, outputs.end_logits], dim=-1).float().numpy()}
            return {None: outputs.logits.float().numpy()}

    logits_by_head: dict[str | None, list[Any]] = {}
    rows = max(1, min(TORCH_ROWS, TORCH_SLOTS // windows.lengths.max(initial=1)))
    if model.run.config.adapter.prompt_length:
        rows = 1  # some classes do not find the end of a text among vectors
    for first in range(0, len(windows), rows):
        numbers = range(first, min(first + rows, len(windows)))
        inputs = export.torch_inputs(windows, numbers)
        if inputs is None:
            assert isinstance(windows, Windows)
            inputs = _pad_windows(model, windows, numbers)
        with torch.inference_mode():
            outputs = network(**{name: torch.tensor(array) for name, array in inputs.items()})
        for head, logits in outputs.items():
            has_positions = logits.ndim == 3
            logits_by_head.setdefault(head, []).extend(
                row[: windows.lengths[number]] if has_positions else row
                for row, number in zip(logits, numbers, strict=True)
            )
    return logits_by_head


def _pad_windows(model: Model, windows: Windows, numbers: range) -> dict[str, np.ndarray]:
    """Returns the arguments of transformers' class for some windows of text, int64 `[len(numbers), L]`."""
    prompt_length = model.run.config.adapter.prompt_length  # of slots that PEFT adds itself
    lengths = windows.lengths[numbers.start : numbers.stop] - prompt_length
    is_token = np.arange(lengths.max()) < lengths[:, None]
    tokens = ragged_arange(windows.offsets[numbers.start : numbers.stop] + prompt_length, lengths)

    def pad_rows(values: np.ndarray, filler: int = 0) -> np.ndarray:
        padded: np.ndarray = np.full(is_token.shape, filler, np.int64)
        padded[is_token] = values[tokens]
        return padded

    pad = model.run.checkpoint.tokenizer.pad_token_id
    inputs = {
        "input_ids": pad_rows(windows.input_ids, pad),
        "attention_mask": is_token.astype(np.int64),
    }
    # Models without token types may add them to the words.
    if windows.has_column("token_type_ids") and model.net.model_config.reads_token_types:
        inputs["token_type_ids"] = pad_rows(windows.column("token_type_ids"))
    return inputs


def _load_class(class_: Any, model: Model, folder: Path) -> Any:
    """Returns the model of transformers' class in `folder`, or that of the run's base with the adapter in `folder`."""
    if not (folder / adapter_files.CONFIG).is_file():
        return class_.from_pretrained(folder, local_files_only=True).eval()
    import transformers

    transformers.utils.logging.set_verbosity_error()  # the base lacks the head, which is in the folder
    config = transformers.AutoConfig.from_pretrained(folder)
    base = class_.from_pretrained(
        find_base(model.run), config=config, local_files_only=True, ignore_mismatched_sizes=True
    )
    base = base.float()  # in half precision, PEFT would round the head
    if (folder / LOADER.name).is_file():
        return _import_file(folder / LOADER.name).add_adapter(base, folder)
    import peft

    adapted = peft.PeftModel.from_pretrained(base, folder).eval()
    # The model around a base with modules leaves token types out for questions. It also adds prefixes and prompts.
    return adapted if adapted.active_peft_config.is_prompt_learning else adapted.base_model


def load_exported(folder: Path) -> Any:
    """Returns the model of the exported `folder`, a `heads_loader.Model`, from the loader in that folder."""
    return _import_file(folder / heads.LOADER.name).Model(folder)


def _import_file(path: Path) -> Any:
    """Returns the module in a file."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check_answers(model: Model, dev: Split[Any, Windows], folder: Path, output: Path) -> None:
    """Compares the answers of the loader in `folder` with those of `model`, on the first texts of dev.

    Args:
        model: the JAX model.
        dev: the dev data, with windows.
        folder: an export that has a loader.
        output: the final folder of the export, for messages.

    Raises:
        UserError: the loader and `model` give different answers for a text.
    """
    run = model.run
    export = make_export(run)
    answers = require_answers(run)
    examples = [dev.examples[index] for index in np.unique(dev.windows.sentence)[:COMPARED_ANSWERS]]
    config = run.config
    if getattr(config.data, "context", False):
        config = replace(config, {"data.context": False})  # the loader reads one sentence at a time
    with jax.default_matmul_precision("highest"):  # programs are compiled at their first use
        data, predictor = make_data(config), model.make_predictor()
        chunks = predict_stream(model, data, predictor, examples, max_words=1 << 16)
        predicted = [pair for chunk in chunks for pair in chunk]
    loaded = load_exported(folder)
    compared = differing = 0
    for example, prediction in predicted:
        ours = export.loader_answers(prediction, answers.render(example, prediction))
        arguments = export.loader_input(example)
        theirs = loaded(*arguments) if arguments else {}
        for name in ours.keys() & theirs.keys():
            compared += 1
            differing += not _are_same(ours[name], theirs[name])
    print(f"answers by {heads.LOADER.name} in torch: {differing} of {compared:,} of dev differ")
    if differing:
        raise UserError(
            f"{heads.LOADER.name} gives other answers in torch than jaxft, {differing} of {compared}: {output} was not "
            "written; please report this with the model's config.json"
        )


def _are_same(ours: Any, theirs: Any) -> bool:
    """Returns whether jaxft's and the loader's answers are the same; numbers may differ by 1e-4."""
    if isinstance(ours, float):
        return bool(np.isclose(ours, theirs, rtol=1e-4, atol=1e-4))
    return ours == (set(theirs) if isinstance(ours, set) else theirs)
