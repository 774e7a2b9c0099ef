"""Writes the adapter of a run in PEFT's files, next to the labels and the tokenizer that belong to it.

If PEFT does not have the method, a loader for PyTorch is added.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from jaxft.adapters.by_slot import POOLER
from jaxft.adapters.peft.config import WITH_LOADER
from jaxft.adapters.peft.files import save_adapter
from jaxft.adapters.plan import AdapterPlan
from jaxft.adapters.registry import METHODS
from jaxft.config import sections
from jaxft.config.sections import RUN
from jaxft.config.settings import declarations, defaults, flatten
from jaxft.errors import UserError
from jaxft.hub.adapter_files import MODEL_CONFIG, SETTINGS, write_adapter_folder
from jaxft.hub.addresses import resolve_address
from jaxft.hub.files import read_config
from jaxft.hub.tensors import open_tensors
from jaxft.inference.model import Model
from jaxft.io.files import write_json
from jaxft.io.stores import address_of
from jaxft.layers.heads.kinds import HeadKind
from jaxft.models.family import Family
from jaxft.models.registry import family_of, read_model_config
from jaxft.tasks.checkpoint_heads import make_run_config
from jaxft.tasks.registry import head_kind, make_export
from jaxft.training.run_folder.workdir import Run

# Settings of data that say nothing of how an answer is found. The head is written in the units of numbers already.
OF_TRAINING = (
    *("train", "dev", "test", "dev_fraction", "shards", "cache_dir", "cached_edge", "workers", "broken"),
    "label_range",
)
# The file that is copied into the folder of an adapter that PEFT does not read. It runs only there.
LOADER = Path(__file__).parent / "adapter_loader.py"


def export_adapter(model: Model, output: Path, add_files: Callable[[Path], None]) -> int:
    """Writes the folder `output` with the adapter and the head of a run, and returns the number of their values.

    Args:
      model: the run's model, in float32.
      output: a folder that does not exist or is empty.
      add_files: adds more files to the folder before it appears.

    Raises:
      UserError: PEFT has no place for what the run trains, or `output` cannot be written.
    """
    run, net, plan = model.run, model.net, model.net.adapters
    if plan is None:
        raise UserError(
            f"--format peft: the run {run.workdir} trains all weights and has no adapter (config.adapter.method); "
            "leave --format out"
        )
    export, kind, family = make_export(run), head_kind(run.config.task), family_of(run.checkpoint.hf_config)
    if not export.has_class:
        raise UserError(
            f"--format peft: transformers has no class for the heads of the run {run.workdir}; "
            f"{plan.method.advice_without_peft}"
        )
    if plan.method.attach is not None:
        _check_virtual_tokens(plan, kind, family, reads_token_types=net.model_config.reads_token_types)
    base = find_base(run)
    if any(name.startswith(POOLER) for name in net.base_names) and not any(
        "pooler." in name for name in open_tensors(base)
    ):
        raise UserError(
            f"--format peft: the base {run.config.model.checkpoint} has no pooler, so that of the run is new, and no "
            "adapter holds it; train it, with config.adapter.modules_to_save=('pooler',), or "
            f"{plan.method.advice_without_peft}"
        )
    parameters = export.to_transformers(model.task, jax.device_get(model.parameters))
    trained = {path: value for path, value in parameters.items() if path not in net.base_names}
    table = family.table_with_head(kind, net.model_config)
    tensors, config = save_adapter(plan, table, trained, kind)
    checkpoint = run.config.model.checkpoint
    name, _, revision = checkpoint.partition("@")
    if checkpoint.startswith("package:") or address_of(checkpoint) or Path(checkpoint).expanduser().exists():
        name, revision = str(base), ""
    config |= {"base_model_name_or_path": name, "revision": revision or run.config.model.revision}

    def write_extras(folder: Path) -> None:
        write_json(folder / MODEL_CONFIG, make_run_config(export))
        write_json(folder / SETTINGS, _select_settings(run.config))
        if needs_loader(run):
            shutil.copyfile(LOADER, folder / LOADER.name)
        add_files(folder)

    write_adapter_folder(output, tensors, config, write_extras)
    return sum(tensor.size for tensor in tensors.values())


def _select_settings(config: sections.Settings) -> dict[str, Any]:
    """Returns the settings with which `jaxft predict` answers as the run does, besides those that PEFT's files say."""
    shared, unset = declarations(sections.Settings), defaults(type(config))
    return {
        key: value
        for key, value in flatten(config).items()
        if (key.startswith("data.") and key.removeprefix("data.") not in OF_TRAINING)
        or (key.startswith("model.") and key not in shared)
        or key == "adapter.base_dtype"
        if value != unset[key] or key == "data.max_length"
    }


def needs_loader(run: Run) -> bool:
    """Returns whether PEFT does not have the method of a run's adapters."""
    return run.config.adapter.method in WITH_LOADER


def _check_virtual_tokens(
    plan: AdapterPlan, kind: HeadKind, family: Family, *, reads_token_types: bool
) -> None:
    """Raises `UserError` if PEFT's model would not compute what the run does with its prefix or prompt."""
    reason = None
    if plan.settings.prefix_length and not family.has_past_keys:
        reason = f"transformers' classes of {family.display_name} take no prefix"
    if kind is HeadKind.QUESTION and reads_token_types:
        reason = f"PEFT's model for questions leaves token types out, which this {family.display_name} reads"
    if reason:
        raise UserError(f"--format peft: {reason}; {plan.method.advice_without_peft}")


def find_base(run: Run) -> Path:
    """Returns the folder of the base of a run with adapters. Raises `UserError` if only jaxft can read that base."""
    config, reason = run.config, None
    if config.model.checkpoint.startswith(RUN):
        reason = f"the base is the run {config.model.checkpoint.removeprefix(RUN)}, which PEFT cannot read"
    elif config.model.init != "pretrained":
        reason = "the base has random weights (config.model.init)"
    elif config.data.added_tokens:
        reason = "the base lacks the words of config.data.added_tokens"
    elif needs_loader(run) and head_kind(config.task) is HeadKind.IMAGE:
        reason = f"the loader of {config.adapter.method} is for models that read text"
    if reason is None:
        folder = resolve_address(config.model.checkpoint, config.model.revision)
        stored, shape = map(read_model_config, (read_config(folder), run.checkpoint.hf_config))
        if not family_of(run.checkpoint.hf_config).resize(stored, shape):
            return folder
        reason = "the base has positions for images of another size (config.data.image_size)"
    raise UserError(f"--format peft: {reason}; {METHODS[config.adapter.method].advice_without_peft}")
