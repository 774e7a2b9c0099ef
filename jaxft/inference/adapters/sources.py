"""Opens trained adapters, of runs and in PEFT's files, to predict with them."""

import contextlib
import dataclasses
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax

from jaxft.adapters.by_slot import POOLER
from jaxft.config.sections import RUN, Settings
from jaxft.config.settings import replace
from jaxft.errors import UserError
from jaxft.hub.adapter_files import CONFIG, AdapterFiles, read_adapter
from jaxft.hub.tensors import open_tensors
from jaxft.inference.adapters.peft_run import infer_run
from jaxft.inference.model import Model, make_model, open_model
from jaxft.io.stores import has_file
from jaxft.models.registry import family_of, read_model_config
from jaxft.tasks.base import Log
from jaxft.tasks.registry import head_kind
from jaxft.training.network import Network, initial_parameters
from jaxft.training.run_folder.frozen_base import select_base
from jaxft.training.run_folder.workdir import Run, open_run


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
            _check_base(run, net.abstract, files)
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
    if address.startswith(RUN):
        raise UserError(
            f"{address}: name the folder of the run without {RUN}, as {address.removeprefix(RUN)}"
        )
    if not is_run and not has_file(address, "model/labels.json"):
        if folder.is_dir() and not (folder / CONFIG).is_file():
            raise UserError(
                f"{folder}: has neither {CONFIG} nor model/labels.json; expected the folder of an adapter in PEFT's "
                "layout, or of a run with adapters whose training has begun"
            )
        files = read_adapter(address, setting="--adapter")
        return infer_run(files, base, base_dtype, log), files
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


def _check_base(run: Run, names: Collection[str], files: AdapterFiles) -> None:
    """Raises `UserError` if neither the base nor the adapter has a layer before the outputs: it would be a random one.

    Args:
      run: the facts of the run that could have trained the adapter.
      names: the parameters of the model by path.
      files: the adapter.
    """
    model, family = run.checkpoint, family_of(run.checkpoint.hf_config)
    kind, model_config = head_kind(run.config.task), read_model_config(model.hf_config)
    shared = [rule for rule in family.shared_head_rules(kind, model_config) if rule.parameter in names]
    needed = {rule.tensor: rule.tensor.partition(".")[0] for rule in shared}
    if any(name.startswith(POOLER) for name in names):
        needed["pooler.dense.weight"] = "pooler"
    assert model.folder is not None  # only new models have none
    tensors = [*files.tensors, *(open_tensors(model.folder) if model.reader is None else model.reader.open())]
    for tensor, module in needed.items():
        if not any(tensor in name for name in tensors):
            raise UserError(
                f"the base {model.address} has no {tensor!r}, and the adapter brings none, so its answers are lost; "
                f"train it with modules_to_save=({module!r}, 'classifier')"
            )
