"""Writes a run's best weights as a Hugging Face folder for PyTorch: a model, or an adapter in PEFT's files."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from jaxft.adapters.plan import is_adapter, merge_parameters
from jaxft.errors import UserError
from jaxft.export import card, heads
from jaxft.export.adapter import export_adapter, needs_loader
from jaxft.export.card import NO_FIELDS, CardFields
from jaxft.export.with_torch import TOLERANCE, check_answers, largest_difference, read_dev_split
from jaxft.hub.files import write_model_folder
from jaxft.hub.weights import make_file_tensors, save_weights
from jaxft.inference.model import Model, open_model
from jaxft.io.files import write_json
from jaxft.io.stores import refuse_address
from jaxft.models.registry import family_of
from jaxft.tasks.checkpoint_heads import choose_exported, make_run_config
from jaxft.tasks.registry import generates_text, head_kind, make_export
from jaxft.training.run_folder.workdir import open_run

FORMATS = ("transformers", "peft")


def export_run(
    run_folder: Path,
    output: Path,
    *,
    format: str = "transformers",
    verify: bool = False,
    card_fields: CardFields = NO_FIELDS,
) -> None:
    """Writes the folder `output` with weights, config.json, tokenizer and model card, either completely or not at all.

    Adapters are merged into the weights. If transformers' classes are not enough for the model, as with a CRF or
    several heads, the folder also contains the weights of its heads and a loader for torch (`heads.write_heads`).

    Args:
        run_folder: the workdir of a run.
        output: a folder that does not exist or is empty.
        format: "transformers" for the model, or "peft" for its adapter and head alone.
        verify: whether to compare with torch on dev before `output` appears.
        card_fields: what the model card says that no run records.

    Raises:
        UserError: there is no such run or format, the run's adapter has no place in the format, or `output` is not
            empty or cannot be written. With `verify`: torch is not installed, its logits differ by more than
            `TOLERANCE`, or the loader's answers differ.
    """
    if format not in FORMATS:
        raise UserError(f"format={format!r}: expected {' or '.join(map(repr, FORMATS))}")
    refuse_address(output, "--output", "write to a local folder, and copy it there")
    run = open_run(run_folder)
    packages = ("torch", "peft") if format == "peft" and not needs_loader(run) else ("torch",)
    if verify and (missing := [name for name in packages if importlib.util.find_spec(name) is None]):
        raise UserError(
            f"--verify needs {' and '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed: pip "
            f"install {' '.join(missing)}, or leave it out"
        )
    # float32, because torch will compute in it.
    model = open_model(run, print, dtype="float32")
    dev = read_dev_split(model) if verify else None
    export = make_export(run)
    is_adapter_alone = format == "peft"
    has_own_heads = export.needs_loader and not is_adapter_alone
    adapters = sum(leaf.size for path, leaf in model.net.abstract.items() if is_adapter(path))
    parameters = model.net.parameter_count - adapters

    def add_files(folder: Path) -> None:
        run.checkpoint.processor.save_pretrained(folder)
        if generates_text(run.config.task):
            write_json(folder / "generation_config.json", _make_generation_config(run.checkpoint.tokenizer))
        if has_own_heads:
            heads.write_heads(model, folder)
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
            if has_own_heads:
                check_answers(model, dev, folder, output)
        text = card.write_card(run, parameters, difference, card_fields, is_adapter=is_adapter_alone)
        (folder / "README.md").write_text(text, encoding="utf-8")

    if is_adapter_alone:
        content = f"{export_adapter(model, output, add_files):,} parameters of adapter and head"
    else:
        _export_model(model, output, add_files)
        content = f"{parameters:,} parameters"
    labels = f"{len(run.labels)} labels, " if run.labels else ""
    print(f"{output}: {content}, {labels}processor, README.md")


def _export_model(model: Model, output: Path, add_files: Callable[[Path], None]) -> None:
    """Writes the folder `output` with a model of transformers; `add_files` adds more files before it appears."""
    run, export = model.run, make_export(model.run)
    parameters = model.parameters
    if model.net.adapters is not None:
        parameters = merge_parameters(model.net.graphdef, parameters)
    exported = choose_exported(export, model.task, jax.device_get(parameters))
    family, head = family_of(run.checkpoint.hf_config), head_kind(run.config.task)
    table = family.table_with_head(head, model.net.model_config)
    tensors = make_file_tensors(table, save_weights(table, exported))
    write_model_folder(output, tensors, make_run_config(export), write_extras=add_files)


def _make_generation_config(tokenizer: Any) -> dict[str, Any]:
    """Returns the generation_config.json of a model that generates text: the ids of its start, end and padding."""
    return {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
