"""Adds heads and a loader for PyTorch to an export if transformers has no class for the model."""

import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors.numpy import save_file

from jaxft.config.sections import Settings
from jaxft.data.encoding.sentences import choose_stride
from jaxft.data.encoding.tokenizer import find_special_tokens, make_frame
from jaxft.inference.model import Model
from jaxft.io.files import write_json
from jaxft.tasks.base import Task
from jaxft.tasks.multi_task.task_configs import make_task_configs
from jaxft.tasks.registry import make_data
from jaxft.tasks.sequence_classification.task import has_transformers_class, resolve_pool
from jaxft.tasks.token_classification.crf import CRFTagging
from jaxft.tasks.token_classification.data import forms_entities
from jaxft.training import step
from jaxft.training.run_folder.workdir import Run

# The file that is copied into the export. It runs only there.
LOADER = Path(__file__).parent / "heads_loader.py"
TAGS = "tags"  # the name of the head that labels words if it is the only head


def needs_heads_only(run: Run) -> bool:
    """Returns whether the export is a backbone and heads, because transformers has no class for the model of `run`."""
    if run.config.task == "sequence_classification":
        return not has_transformers_class(run.config, run.checkpoint.hf_config["model_type"])
    return run.config.task == "multi_task"


def needs_loader(run: Run) -> bool:
    """Returns whether an export needs heads and a loader.

    Some models need them although transformers has a class, because the class or its pipeline computes something else:
    it has no CRF, joins neighbouring words with the same label, reads a word's label at its first subword, and reads
    only the beginning of a long text.
    """
    config = run.config
    if config.task == "token_classification":
        is_read_otherwise = config.data.label_subwords == "last" or not forms_entities(config, run.labels)
        return config.model.crf or is_read_otherwise
    if config.task == "sequence_classification" and config.data.truncation != "head":
        return True
    return needs_heads_only(run)


def tagging_heads(run: Run, task: Any) -> list[str]:
    """Returns the names of the heads that label words."""
    return [name for name, (config, _) in _tasks_by_head(run, task).items() if make_data(config).reads_words]


def _tasks_by_head(run: Run, task: Any) -> dict[str, tuple[Settings, Task]]:
    """Returns the settings and the task of each head, by the head's name.

    A run of several tasks names its heads. In other runs the name of the head is `TAGS` if it labels words, else the
    key of its labels in the data.
    """
    if run.config.task == "multi_task":
        return {name: (config, task.tasks[name]) for name, config in make_task_configs(run.config).items()}
    name = TAGS if make_data(run.config).reads_words else run.config.data.label
    return {name: (run.config, task)}


def write_heads(model: Model, folder: Path) -> None:
    """Writes heads.safetensors, heads.json and the loader into `folder`. The loader's docstring describes the files."""
    network = step.merge_model(model.net.graphdef, model.parameters)
    is_multi_task = model.run.config.task == "multi_task"
    tensors: dict[str, np.ndarray] = {}
    for name, (_, task) in _tasks_by_head(model.run, model.task).items():
        prefix = f"head/{name}/" if is_multi_task else "head/"
        head_parameters = {
            f"head/{path.removeprefix(prefix)}": value
            for path, value in model.parameters.items()
            if path.startswith(prefix)
        }
        linear = task.to_transformers(jax.device_get(head_parameters))
        [kernel] = (value for key, value in linear.items() if key.endswith("kernel"))
        tensors[f"{name}.weight"] = np.ascontiguousarray(kernel.T)
        tensors[f"{name}.bias"] = linear.get("head/bias", np.zeros(kernel.shape[-1], kernel.dtype))
        if isinstance(task, CRFTagging):
            chain = task.decoding_chain(network.task_models[name] if is_multi_task else network)._asdict()
            tensors |= {f"{name}.{key}": np.asarray(value) for key, value in chain.items()}
    save_file(tensors, folder / "heads.safetensors")
    description = {
        "tasks": _describe_heads(model.run, model.task),
        "reading": _describe_reading(model.run, model.task),
    }
    write_json(folder / "heads.json", description)
    shutil.copyfile(LOADER, folder / LOADER.name)


def _describe_heads(run: Run, task: Any) -> dict[str, dict[str, Any]]:
    """Returns the description of each head for heads.json."""
    heads = {}
    for name, (config, head_task) in _tasks_by_head(run, task).items():
        heads[name] = {"task": config.task, "labels": head_task.labels}
        if config.task == "sequence_classification":
            pool = resolve_pool(config, run.checkpoint.hf_config["model_type"])
            tuned = run.tuned.get(name, {}) if run.config.task == "multi_task" else run.tuned
            heads[name] |= {"problem_type": config.model.problem_type, "pool": pool, **tuned}
    return heads


def _describe_reading(run: Run, task: Any) -> dict[str, Any]:
    """Returns the description for heads.json of how input becomes windows.

    In training, `data.encoding.sentences` makes the windows of words, and `data.encoding.labelled_texts` those of texts
    and pairs of texts.
    """
    data = run.config.data
    if tagging_heads(run, task):
        before, after = find_special_tokens(run.checkpoint.tokenizer)
        return {
            "words": {
                "max_length": data.max_length,
                "stride": choose_stride(data.stride, data.max_length - len(before) - len(after)),
                "before": before,
                "after": after,
                "subword": "last" if data.label_subwords == "last" else "first",
            }
        }
    reading = {"max_length": data.max_length, "truncation": data.truncation, "stride": data.stride or 0}
    for name in ("text", "pair"):
        frame = make_frame(run.checkpoint.tokenizer, name == "pair")
        reading[name] = {"ids": [frame.before, frame.between, frame.after], "types": list(frame.types)}
    return reading
