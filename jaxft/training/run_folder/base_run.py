"""Opens another run as the checkpoint that a run starts from, as if it had been exported."""

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jaxft.config.sections import RUN
from jaxft.errors import UserError
from jaxft.hub.weights import save_weights
from jaxft.models.pretrained_model import PretrainedModel, WeightReader
from jaxft.models.registry import family_of, read_model_config
from jaxft.tasks.base import Log
from jaxft.tasks.checkpoint_heads import choose_exported, make_run_config
from jaxft.tasks.registry import head_kind, make_export, make_task
from jaxft.tasks.run_facts import RunFacts
from jaxft.training.run_folder.best import read_best
from jaxft.training.run_folder.workdir import open_run


def open_base_run(model: PretrainedModel, log: Log) -> PretrainedModel:
    """Returns the model of the address "run:WORKDIR" with what the run adds to it: its head, and its best weights.

    Args:
      model: the run's config.json and processor, perhaps with added tokens.
      log: prints a line.

    Raises:
      UserError: there is no run, its files are damaged, or it holds adapters.
    """
    run = open_run(Path(model.address.removeprefix(RUN)).expanduser())
    if run.config.adapter.is_used:
        raise UserError(
            f"config.model.checkpoint={model.address!r}: the run holds adapters alone; export it, which merges them, "
            "and give the exported folder as the checkpoint"
        )
    # Without tuned values, such as thresholds, which are those of the other run's data.
    export = make_export(RunFacts(run.config, model, run.labels, {}))
    table = family_of(model.hf_config).table_with_head(
        head_kind(run.config.task), read_model_config(model.hf_config)
    )

    def read_tensors() -> Mapping[str, np.ndarray]:
        task = make_task(run.labels, run.config, head_dropout=0.0)
        return save_weights(table, choose_exported(export, task, read_best(run.workdir, log)))

    def checksum() -> str:
        digest = hashlib.sha256()
        for path in sorted((run.workdir / "best").glob("*/state/**/*")):
            if path.is_file():
                digest.update(path.read_bytes())
        return digest.hexdigest()

    return dataclasses.replace(
        model,
        folder=run.workdir / "model",
        hf_config=make_run_config(export),
        reader=WeightReader(read_tensors, checksum),
    )
