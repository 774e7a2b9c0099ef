"""Writes the model card of an exported model from what its run recorded."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxft.config import loading as settings
from jaxft.errors import UserError
from jaxft.io import read_json
from jaxft.models.pretrained_model import NEW
from jaxft.tasks.causal_lm import card as causal_lm_card
from jaxft.tasks.multi_task import card as multi_task_card
from jaxft.tasks.question_answering import card as question_answering_card
from jaxft.tasks.sequence_classification import card as sequence_classification_card
from jaxft.tasks.token_classification import card as token_classification_card
from jaxft.tasks.token_classification import crf_card
from jaxft.training.finished_run import Run

PARTS = {  # by task
    "token_classification": token_classification_card,
    "crf_tagging": crf_card,
    "causal_lm": causal_lm_card,
    "sequence_classification": sequence_classification_card,
    "question_answering": question_answering_card,
    "multi_task": multi_task_card,
}
# Settings that say nothing about the weights.
LEFT_OUT = ("log.", "data.cache_dir", "checkpoint.", "mesh.")


def write_card(run: Run, parameters: int, difference: float | None) -> str:
    """The README.md of an export: metadata as the Hugging Face hub reads it, and text for people.

    parameters: how many there are. difference: the largest of logits against torch, where it was measured.
    Paths of this machine are reduced to their last part.
    """
    evaluations = _evaluations(run.workdir)
    base = _public(run.config.model.checkpoint)
    named = re.fullmatch(r"(?:package|new):([^/]+).*", base)
    part = PARTS[run.config.task]
    title = f"{named[1] if named else base.rpartition('/')[2]} for {part.TASK.replace('-', ' ')}"
    compared = (
        "Torch's logits were not compared with jaxft's at export (`--verify` does)."
        if difference is None
        else f"At export torch's logits differed from jaxft's by {difference:.1e} at most on dev data."
    )
    sections = [
        f"---\n{_metadata(run, title, evaluations)}\n---",
        f"# {title}",
        _origin(run, base, parameters),
        "## Scores",
        part.scores(evaluations, _public) if evaluations else "None: the run was not evaluated.",
        "## Use",
        f"{part.usage(run)} {compared}",
        "## Settings",
        _settings(run),
        "## Versions",
        _versions(run.workdir),
    ]
    return "\n\n".join(sections) + "\n"


def _public(value: Any) -> Any:
    """A source or address without folders of the machine it was used on."""
    if not isinstance(value, str):
        return value
    value = re.sub(r"(?<=[=;])/[^;]*/", "", value)  # of several files
    if split_off := re.fullmatch(r"(\d+% of )(.*)(, seed \d+)", value):
        return split_off[1] + _public(split_off[2]) + split_off[3]
    path = Path(value).expanduser()
    return path.name if path.is_absolute() or path.exists() else value


def _evaluations(folder: Path) -> dict[str, dict]:
    names = [name for name in ("dev", "test") if (folder / "eval" / f"{name}.json").is_file()]
    return {name: read_json(folder / "eval" / f"{name}.json") for name in names}


def _metadata(run: Run, title: str, evaluations: Mapping[str, dict]) -> str:
    from huggingface_hub import EvalResult, ModelCardData  # slow to import

    part = PARTS[run.config.task]
    results = [
        EvalResult(
            task_type=part.TASK,
            dataset_type=_public(found["data"]),
            dataset_name=_public(found["data"]),
            dataset_split=name,
            metric_type=metric,
            metric_name=text,
            metric_value=found["metrics"][key],
        )
        for name, found in evaluations.items()
        for metric, (key, text) in part.METRICS.items()
        if key in found["metrics"]
    ]
    checkpoint, train = run.config.model.checkpoint, run.config.data.train
    on_hub = re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*(@.*)?", checkpoint) and not Path(checkpoint).exists()
    dataset = re.fullmatch(r"hub:([^@:]+?)(?:[@:].*|/(?:train|validation|test)\b.*)?", train)
    return ModelCardData(
        library_name="transformers",
        pipeline_tag=part.TASK,
        tags=[*part.TAGS, "jaxft"],
        base_model=checkpoint.partition("@")[0] if on_hub else None,
        datasets=[dataset[1]] if dataset else None,
        metrics=list(dict.fromkeys(result.metric_type for result in results)) or list(part.METRICS),
        model_name=title,
        eval_results=results or None,
    ).to_yaml()


def _origin(run: Run, base: str, parameters: int) -> str:
    config, summary = run.config, run.workdir / "summary.json"
    start = f"- Base checkpoint: `{base}`"
    if base.startswith(NEW):
        start = "- Base checkpoint: none; weights and tokenizer are from scratch"
    elif config.model.init == "scratch":
        start += " (sizes and tokenizer only: weights from scratch)"
    elif config.model.revision:
        start += f", revision `{config.model.revision}`"
    lines = [*PARTS[config.task].origin(run, parameters), start]
    if config.init_from:
        lines.append(f"- Weights at the start: the best of the run `{_public(config.init_from)}`")
    for name in ("train", "dev", "test"):
        if config.data[name]:
            lines.append(f"- {name}: `{_public(config.data[name])}`")
    if config.data.dev is None:
        lines.append(f"- dev: {config.data.dev_fraction:.0%} of train, split off with seed {config.seed}")
    if str(config.data.train).startswith("demo:"):
        lines.append("- `demo:` is a synthetic corpus from templates: the scores say little about real text.")
    if summary.is_file():
        found = read_json(summary)
        lines.append(
            f"- Training: {found['steps']:,} steps in {found['train_s']:,.0f} s; these are the weights of step "
            f"{found['best_step']:,}, the best by `{found['selected_by']}` on dev"
        )
    else:
        lines.append("- Training had not finished when this was exported.")
    lines.append("- License: not recorded by the run; that of the base checkpoint and of the data applies.")
    return "\n".join(lines)


def _settings(run: Run) -> str:
    defaults = settings.flat(settings.base())
    lines = [
        f"{key} = {_public(value)!r}" + ("" if value == defaults[key] else "  # not the default")
        for key, value in sorted(settings.flat(run.config).items())
        if value is not None and not key.startswith(LEFT_OUT)
    ]
    return "```\n" + "\n".join(lines) + "\n```"


def _versions(folder: Path) -> str:
    try:
        versions = read_json(folder / "versions.json")
    except UserError:
        return "Not recorded."
    return (
        "Of the training run: " + ", ".join(f"{name} {version}" for name, version in versions.items()) + "."
    )
