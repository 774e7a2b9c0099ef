"""What an export of several tasks has beside the body: their heads, a loader for torch, and the check of both."""

import importlib.util
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors.numpy import save_file

from jaxft import inference, step, workdir
from jaxft.errors import UserError
from jaxft.report import write_json
from jaxft.tasks import own_settings
from jaxft.tasks.base import Split
from jaxft.tasks.crf_tagging import CRFTagging
from jaxft.tasks.sequence_classification import AUTO_POOL

LOADER = (
    Path(__file__).parent / "pretrained" / "multi_task_loader.py"
)  # goes into the folder, and runs there only
ANSWERED = 64  # texts of dev whose answers are compared


def write(model: inference.Model, folder: Path) -> None:
    """Writes heads.safetensors, heads.json and the loader, which says what they hold, into `folder`."""
    network = step.model_of(model.net.graphdef, model.parameters)
    tensors: dict[str, np.ndarray] = {}
    for name, task in model.task.tasks.items():
        prefix = f"head/{name}/"
        own = {
            f"head/{k.removeprefix(prefix)}": v for k, v in model.parameters.items() if k.startswith(prefix)
        }
        linear = task.exported(jax.device_get(own))
        tensors[f"{name}.weight"] = np.ascontiguousarray(linear["head/kernel"].T)
        tensors[f"{name}.bias"] = linear["head/bias"]
        if isinstance(task, CRFTagging):
            chain = task.chain(network.readers[name])._asdict()
            tensors |= {f"{name}.{key}": np.asarray(value) for key, value in chain.items()}
    save_file(tensors, folder / "heads.safetensors")
    write_json(folder / "heads.json", _heads(model.run, model.task))
    shutil.copyfile(LOADER, folder / LOADER.name)


def _heads(run: workdir.Run, task: Any) -> dict[str, dict[str, Any]]:
    found = {}
    for name, own in own_settings.of_tasks(run.config).items():
        found[name] = {"task": own.task, "labels": task.tasks[name].labels}
        if own.task == "sequence_classification":
            found[name] |= {
                "problem_type": own.model.problem_type,
                "pool": AUTO_POOL["bert"] if own.model.pool == "auto" else own.model.pool,
                **task.tasks[name].tuned,
            }
    return found


def load(folder: Path) -> Any:
    """The model of the exported `folder`, by the loader that lies in it."""
    spec = importlib.util.spec_from_file_location(LOADER.stem, folder / LOADER.name)
    loader = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loader)
    return loader.MultiTask(folder)


def check_answers(model: inference.Model, dev: Split, folder: Path, output: Path) -> None:
    """Raises `UserError` where the loader in `folder` gives a text of dev another answer than `model` does."""
    once = np.bincount(dev.windows.sentence, minlength=len(dev.examples)) == 1  # the loader reads one window
    examples = [dev.examples[index] for index in np.flatnonzero(once)[:ANSWERED]]
    with jax.default_matmul_precision("highest"):
        predict = model.predictor()
    run, ask = model.run, load(folder)
    chunks = model.task.predict_stream(
        examples, run.checkpoint.tokenizer, run.config, predict, max_words=1 << 16
    )
    compared = differing = 0
    for example, ours in (pair for chunk in chunks for pair in chunk):
        tagged = next((name for name in model.task.taggers if name in ours), None)
        if tagged is None:
            part = next(iter(example.parts.values()))
            theirs = {} if model.task.taggers else ask(part.text, part.pair)
        else:
            theirs = ask(example.parts[tagged].words)
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
