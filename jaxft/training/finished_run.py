"""Opens a run folder for reading."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from jaxft.config import loading as settings
from jaxft.errors import UserError
from jaxft.hub.files import read_config
from jaxft.hub.tokenizers import load_tokenizer
from jaxft.io import read_json
from jaxft.models.pretrained_model import PretrainedModel
from jaxft.parallel import processes
from jaxft.tasks.run_facts import RunFacts
from jaxft.training.checkpoint import RunCheckpoints
from jaxft.training.identity import settings_without, versions


def load_best(
    workdir: Path, abstract: Mapping[str, jax.ShapeDtypeStruct], labels: list[str], log=print
) -> dict[str, jax.Array]:
    """The best parameters of the run in `workdir`, into the shapes and shardings of `abstract`.

    Raises `UserError` where there are none, or they are of other shapes or of other `labels`.
    """
    folder = workdir / "best"
    if not folder.is_dir():
        raise UserError(
            f"{workdir} has no weights: there is no folder {folder}; is it a run that was evaluated?"
        )
    checkpoints = RunCheckpoints(folder, keep=None, log=log, read_only=True)

    def fitting(meta: Mapping[str, Any]) -> dict[str, jax.ShapeDtypeStruct]:
        shapes = {name: list(leaf.shape) for name, leaf in abstract.items()}
        differing = sorted(
            name
            for name in shapes.keys() | meta["shapes"].keys()
            if shapes.get(name) != meta["shapes"].get(name)
        )
        if differing:
            name = differing[0]
            raise UserError(
                f"{folder}: parameter {name!r} has shape {meta['shapes'].get(name)} there and "
                f"{shapes.get(name)} in this model ({len(differing)} differ); start from a run of the same "
                "checkpoint and labels"
            )
        if meta["labels"] != labels:
            raise UserError(
                f"{folder}: its labels are {', '.join(meta['labels'])}; this run's are {', '.join(labels)}: the head "
                "would mean something else; start from a run of the same labels"
            )
        return dict(abstract)

    restored = checkpoints.restore(fitting)
    checkpoints.close()
    if restored is None:
        raise UserError(f"{folder} holds no complete checkpoint; let the run reach its first evaluation")
    return restored[1]


def best_meta(
    parameters: Mapping[str, Any], labels: list[str], values: Mapping[str, float]
) -> dict[str, Any]:
    """What is kept beside the best parameters."""
    shapes = {name: list(p.shape) for name, p in parameters.items()}
    return {"metrics": dict(values), "labels": labels, "shapes": shapes}


@dataclasses.dataclass(frozen=True)
class Run(RunFacts):
    """A finished or running run, opened for reading; `workdir` is its folder."""

    workdir: Path


def open_run(workdir: Path) -> Run:
    """The settings, tokenizer, sizes and labels of the run in `workdir`; needs neither its data nor a hub."""
    if not (workdir / "config.json").is_file():
        raise UserError(f"--run {workdir}: no jaxft run there (no config.json); name the --workdir of a run")
    config = settings.from_dict(read_json(workdir / "config.json"), str(workdir / "config.json"))
    processes.assert_same(
        {f"config.{key}": value for key, value in settings_without(config).items()} | versions()
    )
    folder = workdir / "model"
    labels = read_json(folder / "labels.json")
    checkpoint = PretrainedModel(config.model.checkpoint, folder, read_config(folder), load_tokenizer(folder))
    tuned = read_json(path) if (path := folder / "tuned.json").exists() else {}
    return Run(config, checkpoint, labels, tuned, workdir)
