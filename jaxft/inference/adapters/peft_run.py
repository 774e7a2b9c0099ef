"""Infers the run that could have trained an adapter in PEFT's files, which do not say everything about it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxft.adapters.peft.config import TASK_TYPES
from jaxft.config.sections import RUN
from jaxft.data.sources.labels import NUMBER
from jaxft.data.sources.records.record_values import describe_type
from jaxft.errors import UserError, list_names
from jaxft.hub.adapter_files import CONFIG, MODEL_CONFIG, SETTINGS, AdapterFiles
from jaxft.hub.addresses import resolve_address
from jaxft.hub.files import read_config, read_json_object
from jaxft.layers.heads.kinds import HeadKind
from jaxft.models.family import Family
from jaxft.models.model_config import read_sides
from jaxft.models.registry import family_of, read_model_config
from jaxft.tasks.base import Log
from jaxft.tasks.registry import TASKS, make_data, schema_of
from jaxft.training.run_folder.base_run import open_base_run
from jaxft.training.run_folder.workdir import Run
from jaxft.training.settings import load_settings

# The most slots of a row for an adapter that does not say how long the texts of its training were.
MAX_LENGTH = 512
LABELLED = (HeadKind.TOKEN, HeadKind.SEQUENCE, HeadKind.IMAGE)  # the kinds of heads whose outputs are labels


def infer_run(files: AdapterFiles, base: str | None, base_dtype: str | None, log: Log) -> Run:
    """Returns the facts of a run that could have trained an adapter in PEFT's files.

    Labels, thresholds and settings are those next to the files if jaxft wrote them.

    Args:
      files: the adapter.
      base: the address of the base, in place of that which the adapter names.
      base_dtype: the dtype of the base if the adapter does not say it; None for float32.
      log: prints a line.

    Raises:
      UserError: the adapter is for no task that answers records, names no base, or has no head.
    """
    adapter, folder = files.config, files.folder
    checkpoint, revision = (base, None) if base is not None else _read_base(adapter, folder)
    base_config = read_config(resolve_address(checkpoint, revision, weights=(), setting="--model"))
    task, kind = _find_task(adapter.get("task_type"), family_of(base_config), f"{folder / CONFIG}")
    outputs = _count_outputs(files, kind, base_config)
    fields = read_json_object(folder / MODEL_CONFIG) if (folder / MODEL_CONFIG).is_file() else {}
    values = _describe_inputs(adapter, base_config, kind)
    problem_type = fields.get("problem_type") or (NUMBER if outputs == 1 else None)  # as in transformers
    if problem_type is not None and "model.problem_type" in schema_of(task).declarations:
        values["model.problem_type"] = problem_type
    if (folder / SETTINGS).is_file():  # which names each base_dtype but float32
        values |= read_json_object(folder / SETTINGS)
    elif base_dtype is not None:
        values["adapter.base_dtype"] = base_dtype
    values |= {
        "task": task,
        "model.checkpoint": checkpoint,
        "model.revision": revision,
        "adapter.init_from": str(folder),
    }
    config = load_settings(values)
    model = make_data(config).open_model(())
    if model.address.startswith(RUN):
        model = open_base_run(model, log)
    labels = _read_labels(fields, outputs, folder, log) if kind in LABELLED else []
    _check_thresholds(fields, labels, folder / MODEL_CONFIG)
    return Run(config, model, labels, fields, folder)


def _read_base(adapter: Mapping[str, Any], folder: Path) -> tuple[str, str | None]:
    """Returns the address and the revision of the base that an adapter names; raises `UserError` if it names none."""
    if not (checkpoint := adapter.get("base_model_name_or_path")):
        raise UserError(
            f"{folder / CONFIG} names no base model (base_model_name_or_path); name it by --model, a folder or hub id"
        )
    return checkpoint, adapter.get("revision") or None


def _describe_inputs(
    adapter: Mapping[str, Any], base_config: Mapping[str, Any], kind: HeadKind
) -> dict[str, Any]:
    """Returns settings that an adapter has if nothing says how it was trained: the most that its base reads.

    Raises `UserError` if the base reads images that are no squares.
    """
    if kind is HeadKind.IMAGE:
        height, width = read_sides({"image_size": 224} | dict(base_config), "image_size")
        if height != width:
            raise UserError(
                f"its base reads images of {height} x {width} pixels, and jaxft makes square ones; answer its images "
                "in PEFT"
            )
        return {"data.image_size": height}
    room = read_model_config(base_config).max_positions
    if adapter["peft_type"] == "PREFIX_TUNING":  # which takes the first positions
        room -= adapter.get("num_virtual_tokens") or 0
    return {"data.max_length": min(MAX_LENGTH, room)}


def _find_task(task_type: Any, family: Family, where: str) -> tuple[str, HeadKind]:
    """Returns the task of an adapter and its kind of head: for texts by PEFT's name, for images by the base.

    Raises `UserError` if it answers no records.
    """
    names = {entry.head: name for name, entry in TASKS.items() if entry.answers and entry.head}
    if HeadKind.IMAGE in family.heads:  # PEFT has no type for it
        return names[HeadKind.IMAGE], HeadKind.IMAGE
    answering = {theirs: kind for kind, theirs in TASK_TYPES.items() if theirs and kind in names}
    if task_type not in answering:
        raise UserError(f"{where}: task_type is {task_type!r}; predictions are for {', '.join(answering)}")
    kind = answering[task_type]
    return names[kind], kind


def _count_outputs(files: AdapterFiles, kind: HeadKind, base_config: Mapping[str, Any]) -> int:
    """Returns the number of outputs of an adapter's head.

    Raises `UserError` if a tensor of the head is missing. Those that it shares with the head of pretraining may be the
    base's.
    """
    family, model_config = family_of(base_config), read_model_config(base_config)
    shared = family.shared_head_rules(kind, model_config)
    rules = [rule for rule in family.head(kind, model_config).rules if rule not in shared]
    head = {rule.parameter: rule.tensor for rule in rules}
    if missing := [tensor for tensor in head.values() if tensor not in files.tensors]:
        raise UserError(
            f"{files.folder} has no tensor {missing[0]!r} of the head, so its answers are lost; train it with its "
            f"module in modules_to_save ({missing[0].rpartition('.')[0]})"
        )
    return files.tensors[head["head/kernel"]].shape[0]


def _read_labels(fields: Mapping[str, Any], count: int, folder: Path, log: Log) -> list[str]:
    """Returns the names of a head's outputs: those of config.json next to the adapter, or numbers."""
    names = fields.get("id2label")
    if not names:
        log(
            f"{folder}: nothing names the {count} labels of its head, so they are LABEL_0, LABEL_1, ...; write "
            f'{MODEL_CONFIG} there, with {{"id2label": {{"0": NAME, ...}}}}, for others'
        )
        return [f"LABEL_{number}" for number in range(count)]
    if not isinstance(names, Mapping) or names.keys() != {str(number) for number in range(len(names))}:
        content = f"the keys {list_names([*names])}" if isinstance(names, Mapping) else describe_type(names)
        raise UserError(
            f"{folder / MODEL_CONFIG}, id2label: found {content}; expected the label of each output, "
            '{"0": NAME, "1": NAME, ...}'
        )
    if len(names) != count:
        raise UserError(
            f"{folder / MODEL_CONFIG} names {len(names)} labels (id2label), and the head of the adapter has {count} "
            "outputs; put back the files that belong together"
        )
    return [str(names[key]) for key in sorted(names, key=int)]


def _check_thresholds(fields: Mapping[str, Any], labels: Sequence[str], path: Path) -> None:
    """Raises `UserError` if config.json has thresholds, but not one for each label, whose names may have changed."""
    thresholds = fields.get("thresholds")
    if thresholds is None:
        return
    by_label = thresholds if isinstance(thresholds, Mapping) else {}
    if missing := [label for label in labels if not isinstance(by_label.get(label), int | float)]:
        raise UserError(
            f"{path}, thresholds: found no number for the label {missing[0]!r}; expected one for each label in "
            "id2label: rename them there too, or remove the thresholds, for 0.5"
        )
