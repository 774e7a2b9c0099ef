"""What an export has beside the backbone where transformers has no class: heads, a loader for torch, the check of both."""

import importlib.util
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from safetensors.numpy import save_file

from jaxft.data.encoding.labelled_texts import make_frame
from jaxft.data.encoding.sentences import choose_stride, special_tokens_around
from jaxft.data.sources.labelled_texts import LabelledText
from jaxft.data.sources.sentence import Sentence
from jaxft.errors import UserError
from jaxft.inference.model import Model
from jaxft.io import write_json
from jaxft.tasks import Task
from jaxft.tasks.base import Split
from jaxft.tasks.multi_task.task_configs import make_task_configs
from jaxft.tasks.sequence_classification.task import has_transformers_class, pool_of
from jaxft.tasks.token_classification.crf import CRFTagging
from jaxft.tasks.token_classification.task import forms_entities
from jaxft.training import step
from jaxft.training.finished_run import Run

# Goes into the folder, and runs there only.
LOADER = Path(__file__).parent / "pretrained" / "heads_loader.py"
ANSWERED = 64  # texts of dev whose answers are compared
TAGS = "tags"  # the name of a head by itself that labels words


def needs_heads_only(run: Run) -> bool:
    """Whether transformers has no class for the model of `run`, so that its export is the backbone and heads."""
    if run.config.task == "sequence_classification":
        return not has_transformers_class(run.config, run.checkpoint.hf_config["model_type"])
    return run.config.task == "multi_task"


def needs_loader(run: Run) -> bool:
    """Whether an export has heads and loader: also beside transformers' class, where that is not all of the model.

    It knows no CRF; its pipeline joins neighbours that have one label, reads it at a word's first subword, and of long
    texts the beginning.
    """
    data = run.config.data
    beside = {
        "crf_tagging": True,
        "token_classification": data.label_subwords == "last" or not forms_entities(run.config, run.labels),
        "sequence_classification": data.truncation != "head",
    }
    return beside.get(run.config.task, False) or needs_heads_only(run)


def _tasks(run: Run, task: Any) -> dict[str, tuple[ConfigDict, Task]]:
    """Settings and task of each head; a task by itself is called "tags", or of texts as the key of its labels."""
    if run.config.task == "multi_task":
        return {name: (own, task.tasks[name]) for name, own in make_task_configs(run.config).items()}
    return {TAGS if task.reads_words else run.config.data.label: (run.config, task)}


def _taggers(run: Run, task: Any) -> list[str]:
    return [name for name, (_, one) in _tasks(run, task).items() if one.reads_words]


def write_heads(model: Model, folder: Path) -> None:
    """Writes heads.safetensors, heads.json and the loader, which says what they hold, into `folder`."""
    network = step.merge_model(model.net.graphdef, model.parameters)
    several = model.run.config.task == "multi_task"
    tensors: dict[str, np.ndarray] = {}
    for name, (_, task) in _tasks(model.run, model.task).items():
        prefix = f"head/{name}/" if several else "head/"
        own = {
            f"head/{k.removeprefix(prefix)}": v for k, v in model.parameters.items() if k.startswith(prefix)
        }
        linear = task.to_transformers(jax.device_get(own))
        [kernel] = (value for key, value in linear.items() if key.endswith("kernel"))
        tensors[f"{name}.weight"] = np.ascontiguousarray(kernel.T)
        tensors[f"{name}.bias"] = linear.get("head/bias", np.zeros(kernel.shape[-1], kernel.dtype))
        if isinstance(task, CRFTagging):
            chain = task.chain(network.task_models[name] if several else network)._asdict()
            tensors |= {f"{name}.{key}": np.asarray(value) for key, value in chain.items()}
    save_file(tensors, folder / "heads.safetensors")
    write_json(
        folder / "heads.json",
        {"tasks": _heads(model.run, model.task), "reading": _reading(model.run, model.task)},
    )
    shutil.copyfile(LOADER, folder / LOADER.name)


def _heads(run: Run, task: Any) -> dict[str, dict[str, Any]]:
    found = {}
    for name, (own, one) in _tasks(run, task).items():
        found[name] = {"task": own.task, "labels": one.labels}
        if own.task == "sequence_classification":
            pool = pool_of(own, run.checkpoint.hf_config["model_type"])
            found[name] |= {"problem_type": own.model.problem_type, "pool": pool, **one.tuned}
    return found


def _reading(run: Run, task: Any) -> dict[str, Any]:
    """How words, or texts and texts in pairs, become windows; see `tokenize.encode`, `labelled_windows.encode`."""
    data = run.config.data
    if _taggers(run, task):
        before, after = special_tokens_around(run.checkpoint.tokenizer)
        return {
            "words": {
                "max_length": data.max_length,
                "stride": choose_stride(data.stride, data.max_length - len(before) - len(after)),
                "before": before,
                "after": after,
                "subword": "last" if data.label_subwords == "last" else "first",
            }
        }
    found = {"max_length": data.max_length, "truncation": data.truncation, "stride": data.stride or 0}
    for name in ("text", "pair"):
        around = make_frame(run.checkpoint.tokenizer, name == "pair")
        found[name] = {"ids": [around.before, around.between, around.after], "types": list(around.types)}
    return found


def load_exported(folder: Path) -> Any:
    """The model of the exported `folder`, by the loader that lies in it."""
    spec = importlib.util.spec_from_file_location(LOADER.stem, folder / LOADER.name)
    loader = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loader)
    return loader.Model(folder)


def check_answers(model: Model, dev: Split, folder: Path, output: Path) -> None:
    """Raises `UserError` where the loader in `folder` gives a text of dev another answer than `model` does."""
    run = model.run
    taggers = _taggers(run, model.task)
    examples = [dev.examples[index] for index in np.unique(dev.windows.sentence)[:ANSWERED]]
    with jax.default_matmul_precision("highest"):
        predict = model.predictor()
    ask = load_exported(folder)
    config = run.config.copy_and_resolve_references()
    config.data.context = False  # the loader is given a sentence at a time
    chunks = model.task.predict_stream(examples, run.checkpoint.tokenizer, config, predict, max_words=1 << 16)
    compared = differing = 0
    for example, ours in (pair for chunk in chunks for pair in chunk):
        if isinstance(example, Sentence):
            theirs, ours = ask(example.words), {TAGS: ours}
        elif isinstance(example, LabelledText):
            theirs, ours = ask(example.text, example.pair), {run.config.data.label: ours}
        elif tagged := next((name for name in taggers if name in ours), None):
            theirs = ask(example.parts[tagged].words)
        else:
            part = next(iter(example.parts.values()))
            theirs = {} if taggers else ask(part.text, part.pair)
        for name in ours.keys() & theirs.keys():
            compared += 1
            differing += not _same(ours[name], theirs[name])
    print(f"answers by {LOADER.name} in torch: {differing} of {compared:,} of dev differ")
    if differing:
        raise UserError(
            f"{LOADER.name} gives other answers in torch than jaxft, {differing} of {compared}: {output} was not "
            "written; please report this with the model's config.json"
        )


def _same(ours: Any, theirs: Any) -> bool:
    if not isinstance(ours, dict):  # a `Prediction` for words
        return ours.tags == theirs
    if "predicted_value" in ours:
        return bool(np.isclose(ours["predicted_value"], theirs, rtol=1e-4, atol=1e-4))
    if "predicted_labels" in ours:
        return set(ours["predicted_labels"]) == set(theirs)
    return ours["predicted_label"] == theirs
