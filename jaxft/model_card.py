"""Writes the model card of an exported model from what its run recorded."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxft import config as settings
from jaxft import workdir
from jaxft.errors import UserError

# Settings that say nothing about the weights.
LEFT_OUT = ("log.", "data.cache_dir", "checkpoint.", "mesh.")
SCORES = {"f1": "entity_f1", "precision": "entity_precision", "recall": "entity_recall"}


def write(run: workdir.Run, parameters: int, difference: float | None) -> str:
    """The README.md of an export: metadata as the Hugging Face hub reads it, and text for people.

    parameters: how many there are. difference: the largest of logits against torch, where it was measured.
    Paths of this machine are reduced to their last part.
    """
    evaluations = _evaluations(run.workdir)
    base = _public(run.config.model.checkpoint)
    package = re.fullmatch(r"package:([^/]+).*", base)
    title = f"{package[1] if package else base.rpartition('/')[2]} for token classification"
    sections = [
        f"---\n{_metadata(run, title, evaluations)}\n---",
        f"# {title}",
        _origin(run, base, parameters),
        "## Scores",
        _scores(evaluations),
        "## Use",
        _usage(run, difference),
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
    path = Path(value).expanduser()
    return path.name if path.is_absolute() or path.exists() else value


def _evaluations(folder: Path) -> dict[str, dict]:
    names = [name for name in ("dev", "test") if (folder / "eval" / f"{name}.json").is_file()]
    return {name: workdir.read_json(folder / "eval" / f"{name}.json") for name in names}


def _metadata(run: workdir.Run, title: str, evaluations: Mapping[str, dict]) -> str:
    from huggingface_hub import EvalResult, ModelCardData  # slow to import

    results = [
        EvalResult(
            task_type="token-classification",
            dataset_type=_public(found["data"]),
            dataset_name=_public(found["data"]),
            dataset_split=name,
            metric_type=metric,
            metric_name=f"entity {metric}, strict",
            metric_value=found["metrics"][key],
        )
        for name, found in evaluations.items()
        for metric, key in SCORES.items()
    ]
    checkpoint, train = run.config.model.checkpoint, run.config.data.train
    on_hub = re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*(@.*)?", checkpoint) and not Path(checkpoint).exists()
    dataset = re.fullmatch(r"hub:([^@:]+?)(?:[@:].*|/(?:train|validation|test)\b.*)?", train)
    return ModelCardData(
        library_name="transformers",
        pipeline_tag="token-classification",
        tags=["token-classification", "named-entity-recognition", "jaxft"],
        base_model=checkpoint.partition("@")[0] if on_hub else None,
        datasets=[dataset[1]] if dataset else None,
        metrics=list(SCORES),
        model_name=title,
        eval_results=results or None,
    ).to_yaml()


def _origin(run: workdir.Run, base: str, parameters: int) -> str:
    config, summary = run.config, run.workdir / "summary.json"
    types = dict.fromkeys(label[2:] for label in run.labels if label != "O")
    lines = [
        f"A BERT with a linear layer over {len(run.labels)} IOB2 labels ({parameters:,} parameters, float32), "
        f"fine-tuned with jaxft (JAX/Flax) and converted to PyTorch's layout.",
        "",
        f"- Types: {', '.join(types) or 'none'}",
        f"- Base checkpoint: `{base}`"
        + (f", revision `{config.model.revision}`" if config.model.revision else "")
        + (" (sizes and tokenizer only: weights from scratch)" if config.model.init == "scratch" else ""),
    ]
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
        found = workdir.read_json(summary)
        lines.append(
            f"- Training: {found['steps']:,} steps in {found['train_s']:,.0f} s; these are the weights of step "
            f"{found['best_step']:,}, the best by `{config.eval.metric}` on dev"
        )
    else:
        lines.append("- Training had not finished when this was exported.")
    lines.append("- License: not recorded by the run; that of the base checkpoint and of the data applies.")
    return "\n".join(lines)


def _scores(evaluations: Mapping[str, dict]) -> str:
    if not evaluations:
        return "None: the run was not evaluated."
    rows = ["| set | sentences | entities | precision | recall | F1 | F1, lenient |", "|---|" + "--:|" * 6]
    for name, found in evaluations.items():
        metrics, intervals = found["metrics"], found.get("intervals") or {}
        cells = [f"{name} (`{_public(found['data'])}`)", f"{found['sentences']:,}"]
        cells.append(f"{metrics['entity_support']:,.0f}")
        for key in ("entity_precision", "entity_recall", "entity_f1", "lenient_f1"):
            between = f" ({'–'.join(f'{100 * x:.1f}' for x in intervals[key])})" if key in intervals else ""
            cells.append(f"{100 * metrics[key]:.2f}{between}")
        rows.append(f"| {' | '.join(cells)} |")
    note = (
        "Entities in percent, micro average: strict as seqeval in IOB2 mode, lenient as conlleval. "
        "Scored per word, sentences of any length whole."
    )
    if any("intervals" in found for found in evaluations.values()):
        note += " In brackets: 95% bootstrap intervals over sentences; they don't cover the choice of seed."
    if "dev" in evaluations:
        note += " Dev chose the weights, so its scores are optimistic."
    kinds = sorted({k for e in evaluations.values() for k in e["metrics"] if k.startswith("entity_f1/")})
    if kinds:
        rows += ["", f"| F1 by type | {' | '.join(evaluations)} |", "|---|" + "--:|" * len(evaluations)]
        for kind in kinds:
            values = (e["metrics"].get(kind) for e in evaluations.values())
            cells = ["-" if value is None else f"{100 * value:.2f}" for value in values]
            rows.append(f"| {kind.partition('/')[2]} | {' | '.join(cells)} |")
    return "\n".join([*rows, "", note])


def _usage(run: workdir.Run, difference: float | None) -> str:
    compared = (
        "Torch's logits were not compared with jaxft's at export (`--verify` does)."
        if difference is None
        else f"At export torch's logits differed from jaxft's by {difference:.1e} at most on dev sentences."
    )
    return (
        "```python\nfrom transformers import pipeline\n\n"
        'tag = pipeline("token-classification", model="PATH_OF_THIS_FOLDER", aggregation_strategy="first")\n'
        'tag("...")\n```\n\n'
        "A word's label is that of its first subword, hence `first`. The pipeline cuts text into words by the "
        f"tokenizer's rules; words were those of the data in training, in windows of {run.config.data.max_length} "
        f"subwords. {compared}"
    )


def _settings(run: workdir.Run) -> str:
    defaults = settings.flat(settings.base())
    lines = [
        f"{key} = {_public(value)!r}" + ("" if value == defaults[key] else "  # not the default")
        for key, value in sorted(settings.flat(run.config).items())
        if value is not None and not key.startswith(LEFT_OUT)
    ]
    return "```\n" + "\n".join(lines) + "\n```"


def _versions(folder: Path) -> str:
    try:
        versions = workdir.read_json(folder / "versions.json")
    except UserError:
        return "Not recorded."
    return (
        "Of the training run: " + ", ".join(f"{name} {version}" for name, version in versions.items()) + "."
    )
