"""Opens trained adapters, of runs and in PEFT's files, to predict with them."""

import contextlib
import dataclasses
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jaxft.adapters.by_slot import POOLER
from jaxft.adapters.peft.config import TASK_TYPES
from jaxft.config.sections import RUN, Settings
from jaxft.config.settings import replace
from jaxft.data.sources.labels import NUMBER
from jaxft.data.sources.records.record_values import json_type_name
from jaxft.errors import UserError, list_names
from jaxft.hub.adapter_files import CONFIG, MODEL_CONFIG, SETTINGS, AdapterFiles, read_adapter
from jaxft.hub.addresses import resolve_address
from jaxft.hub.files import read_config, read_json_object
from jaxft.hub.tensors import open_tensors
from jaxft.inference.model import Model, make_model, open_model
from jaxft.layers.heads.kinds import HeadKind
from jaxft.models.family import Family
from jaxft.models.model_config import read_sides
from jaxft.models.registry import family_of, read_model_config
from jaxft.tasks.base import Log
from jaxft.tasks.registry import TASKS, make_data, schema_of
from jaxft.training.network import Network, initial_parameters
from jaxft.training.run_folder.base_run import open_base_run
from jaxft.training.run_folder.frozen_base import select_base
from jaxft.training.run_folder.workdir import Run, open_run
from jaxft.training.settings import load_settings

# The most slots of a row for an adapter that does not say how long the texts of its training were.
MAX_LENGTH = 512
LABELLED = (HeadKind.TOKEN, HeadKind.SEQUENCE, HeadKind.IMAGE)  # the kinds of heads whose outputs are labels


class AdapterChoice(NamedTuple):
    """Says which adapters answer records.

    Attributes:
      addresses: the address of each adapter by its name: the folder of a run with adapters, or a folder or hub id in
        PEFT's layout. That with the name "" answers the records that name none.
      base: the address of the base model, in place of that which the adapters name; None to take theirs.
      field: the key of records that names their adapter.
    """

    addresses: Mapping[str, str]
    base: str | None = None
    field: str = "adapter"


NO_ADAPTERS = AdapterChoice({})


class AdapterSource(NamedTuple):
    """An adapter before its weights are read.

    Attributes:
      name: its name, "" for that which answers the records that name none.
      flag: the flag that names it, for messages.
      run: the facts of the run that trained it, as far as they are known; its folder is that of the adapter.
      files: the adapter in PEFT's files; None for that of a run's folder.
    """

    name: str
    flag: str
    run: Run
    files: AdapterFiles | None


def parse_adapters(texts: Sequence[str], base: str | None, field: str) -> AdapterChoice:
    """Returns the choice that texts such as "ner=FOLDER" or "FOLDER" make. Raises `UserError` for a name twice."""
    addresses: dict[str, str] = {}
    for text in texts:
        named = re.fullmatch(r"([\w.-]+)=(.+)", text)
        name, address = (named[1], named[2]) if named and not os.path.exists(text) else ("", text)
        if name in addresses:
            which = f"the name {name!r} twice" if name else "two adapters without a name"
            raise UserError(
                f"--adapter {text}: {which}; give each adapter another name, --adapter NAME=FOLDER"
            )
        addresses[name] = address
    return AdapterChoice(addresses, base, field)


def open_sources(run_folder: Path | None, choice: AdapterChoice, log: Log) -> list[AdapterSource]:
    """Opens adapters without their weights. That of the run in `run_folder`, if there is one, has the name "".

    Raises:
      UserError: an adapter or its base is not there or damaged, or adapters are of different tasks.
    """
    addresses = dict(choice.addresses)
    if run_folder is not None:
        if "" in addresses:
            raise UserError(
                f"--run {run_folder} answers the records that name no adapter, and so would --adapter "
                f"{addresses['']}; give the adapter a name, --adapter NAME={addresses['']}, or leave --run out"
            )
        addresses = {"": str(run_folder)} | addresses
    sources: list[AdapterSource] = []
    for name, address in addresses.items():
        is_run = run_folder is not None and not name
        flag = f"--run {address}" if is_run else f"--adapter {f'{name}=' if name else ''}{address}"
        with errors_name(flag):
            base_dtype = sources[0].run.config.adapter.base_dtype if sources else None
            run, files = _open_adapter(address, is_run, choice.base, base_dtype, log)
        sources.append(AdapterSource(name, flag, run, files))
    first = sources[0].run.config.task
    for source in sources[1:]:
        if (task := source.run.config.task) != first:
            raise UserError(
                f"{source.flag}: its task is {task}, and that of {sources[0].flag} is {first}; expected adapters of "
                "the same task, so answer their records by commands of their own"
            )
    return sources


def load_source(source: AdapterSource, log: Log) -> Model:
    """Reads the weights of an adapter and its base. Raises `UserError` if they do not belong together."""
    run, files = source.run, source.files
    with errors_name(source.flag):
        if files is None:
            return open_model(run, log)

        def load(net: Network, config: Settings) -> dict[str, jax.Array]:
            keep_order = list(range(net.abstract["head/kernel"].shape[-1]))  # that of the run's labels
            _check_pooler(run, net.abstract, files)
            parameters, _ = initial_parameters(net, config, run.checkpoint, lambda _: keep_order)
            base = select_base(net, parameters, log)
            return {name: parameters[name] for name in net.kept} | base.parameters

        return make_model(run, load)


@contextlib.contextmanager
def errors_name(flag: str) -> Iterator[None]:
    """Lets a `UserError` in the block name the flag of an adapter, and the flags in place of settings."""
    try:
        yield
    except UserError as error:
        text = re.sub(r"^(--run \S+|config\.adapter\.init_from=\S+): ", "", str(error))
        text = text.replace("as config.model.checkpoint", "by --model")
        text = text.replace("config.adapter.init_from", "--adapter")
        raise UserError(f"{flag}: {text}") from None


def _open_adapter(
    address: str, is_run: bool, base: str | None, base_dtype: str | None, log: Log
) -> tuple[Run, AdapterFiles | None]:
    """Opens an adapter without its weights. Returns the facts of its run, and its files if they are PEFT's.

    Args:
      address: its address.
      is_run: whether it must be a run's folder.
      base: the address of the base, in place of that which the adapter names.
      base_dtype: the dtype of the base if the adapter does not say it; None for float32.
      log: prints a line.
    """
    folder = Path(address).expanduser()
    if not is_run and not (folder / "model" / "labels.json").is_file():
        if folder.is_dir() and not (folder / CONFIG).is_file():
            raise UserError(
                f"{folder}: has neither {CONFIG} nor model/labels.json; expected the folder of an adapter in PEFT's "
                "layout, or of a run with adapters whose training has begun"
            )
        files = read_adapter(address, setting="--adapter")
        return _describe(files, base, base_dtype, log), files
    run = open_run(folder)
    if not run.config.adapter.is_used:
        raise UserError(
            "the run trains all weights and has no adapter (config.adapter.method); expected one with adapters, which "
            "can share a base with others"
        )
    if base is not None:
        config = replace(run.config, {"model.checkpoint": base, "model.revision": None})
        run = dataclasses.replace(run, config=config)
    return run, None


def _describe(files: AdapterFiles, base: str | None, base_dtype: str | None, log: Log) -> Run:
    """Returns the facts of a run that could have trained an adapter in PEFT's files.

    Labels, thresholds and settings are those next to the files if jaxft wrote them.

    Raises:
      UserError: the adapter is for no task that answers records, names no base, or has no head.
    """
    adapter, folder = files.config, files.folder
    checkpoint, revision = base, None
    if base is None:
        checkpoint, revision = adapter.get("base_model_name_or_path"), adapter.get("revision") or None
    if not checkpoint:
        raise UserError(
            f"{folder / CONFIG} names no base model (base_model_name_or_path); name it by --model, a folder or hub id"
        )
    fields = read_json_object(folder / MODEL_CONFIG) if (folder / MODEL_CONFIG).is_file() else {}
    base_config = read_config(resolve_address(checkpoint, revision, weights=(), setting="--model"))
    family = family_of(base_config)
    task, kind = _find_task(adapter.get("task_type"), family, f"{folder / CONFIG}")
    outputs = _count_outputs(files, kind, base_config)
    problem_type = fields.get("problem_type") or (NUMBER if outputs == 1 else None)  # as in transformers
    values = _describe_inputs(adapter, base_config, kind)
    if base_dtype is not None and not (folder / SETTINGS).is_file():  # which names every other dtype
        values["adapter.base_dtype"] = base_dtype
    if problem_type is not None and "model.problem_type" in schema_of(task).declarations:
        values["model.problem_type"] = problem_type
    if (folder / SETTINGS).is_file():
        values |= read_json_object(folder / SETTINGS)
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
    """Returns the number of outputs of an adapter's head. Raises `UserError` if a tensor of the head is missing."""
    table = family_of(base_config).table_with_head(kind, read_model_config(base_config))
    head = {rule.parameter: rule.tensor for rule in table.rules if rule.parameter.startswith("head/")}
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
        content = f"the keys {list_names([*names])}" if isinstance(names, Mapping) else json_type_name(names)
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


def _check_pooler(run: Run, names: Collection[str], files: AdapterFiles) -> None:
    """Raises `UserError` if the pooler is neither the base's nor the adapter's: it would be a random one."""
    if not any(name.startswith(POOLER) for name in names):
        return
    model = run.checkpoint
    assert model.folder is not None  # only new models have none
    tensors = [*files.tensors, *(open_tensors(model.folder) if model.reader is None else model.reader.open())]
    if not any("pooler.dense.weight" in name for name in tensors):
        raise UserError(
            f"the base {model.address} has no pooler, and the adapter brings none, so its answers are lost; train it "
            "with modules_to_save=('pooler', 'classifier')"
        )
