"""Writes the model card of an exported model from the records of its run."""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxft.config.sections import NEW, RUN
from jaxft.config.settings import defaults, flatten
from jaxft.data.sources.records.record_values import JsonObject
from jaxft.errors import UserError
from jaxft.export.adapter import needs_loader
from jaxft.io.files import read_json
from jaxft.models.registry import family_of
from jaxft.tasks.card_tables import code, escape
from jaxft.tasks.registry import head_kind, load_card
from jaxft.training.run_folder.workdir import BASE_CARD, Run

# Settings that say nothing about the weights.
OMITTED_SETTINGS = ("log.", "data.cache_dir", "checkpoint.", "mesh.")


@dataclasses.dataclass(frozen=True)
class CardFields:
    """The fields of a model card that no run records. Empty ones are those of the base checkpoint's card, or left out.

    Attributes:
        license: the licence's identifier on the hub, such as "apache-2.0".
        language: codes of the text's languages, such as "en".
        tags: more tags.
    """

    license: str | None = None
    language: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raises `UserError` for values that no hub takes."""
        for language in self.language:
            if not re.fullmatch(r"[a-z]{2,3}(-[A-Za-z0-9]+)*|multilingual|code", language):
                raise UserError(
                    f"--language {language}: expected codes of languages, such as --language en,de (ISO 639)"
                )
        if self.license is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", self.license):
            raise UserError(
                f"--license {self.license}: expected an identifier of the hub, such as apache-2.0, mit, cc-by-4.0 or "
                "other"
            )


NO_FIELDS = CardFields()


def write_card(
    run: Run,
    parameters: int,
    difference: float | None,
    fields: CardFields = NO_FIELDS,
    *,
    is_adapter: bool = False,
) -> str:
    """Returns the README.md of an export: metadata for the Hugging Face hub, and text for people.

    It shows only the last component of paths on this machine.

    Args:
        run: the exported run.
        parameters: the number of the model's parameters.
        difference: the largest difference between a logit and torch's, or None if it was not measured.
        fields: what the card says that no run records.
        is_adapter: whether the folder holds an adapter in PEFT's files, and not the model.
    """
    evaluations = _evaluations(run.workdir)
    base_card = _base_card(run)
    base = _public(run.config.model.checkpoint)
    package = re.fullmatch(r"(?:package|new):([^/]+).*", base)
    base_name = package[1] if package else base.removeprefix(RUN).rpartition("/")[2]
    task_card = load_card(run.config.task)
    title = f"{base_name} for {task_card.HUB_TASK.replace('-', ' ')}"
    comparison = (
        "Torch's logits were not compared with jaxft's at export (`--verify` does)."
        if difference is None
        else f"At export torch's logits differed from jaxft's by {difference:.1e} at most on dev data."
    )
    sections = [
        f"---\n{_metadata(run, title, evaluations, fields, base_card, is_adapter)}\n---",
        f"# {escape(title)}",
        _origin(run, base, parameters),
        _license(fields, base_card),
        "## Scores",
        task_card.tabulate_scores(evaluations, _public)
        if evaluations
        else "None: the run was not evaluated.",
        "## Use",
        f"{_describe_adapter(run, base) if is_adapter else task_card.describe_usage(run)} {comparison}",
        "## Settings",
        _settings(run),
        "## Versions",
        _versions(run.workdir),
    ]
    return "\n\n".join(sections) + "\n"


def _public(value: Any) -> Any:
    """Returns a data source or address without the folders of the machine, or store, in which it was."""
    if not isinstance(value, str):
        return value
    if value.startswith(RUN):
        return RUN + _public(value.removeprefix(RUN))
    value = re.sub(
        r"((?<=[=;])|^)[a-z][a-z0-9+.-]+://([^;]*/)?", "", value
    )  # drops the place in an object store
    value = re.sub(r"(?<=[=;])/[^;]*/", "", value)  # drops the folder of each of several files
    if held_out := re.fullmatch(r"(\d+% of )(.*)(, seed \d+)", value):
        return held_out[1] + _public(held_out[2]) + held_out[3]
    path = Path(value).expanduser()
    return path.name if path.is_absolute() or path.exists() else value


def _evaluations(folder: Path) -> dict[str, JsonObject]:
    """Reads the recorded evaluations on dev and test from the run `folder`."""
    names = [name for name in ("dev", "test") if (folder / "eval" / f"{name}.json").is_file()]
    return {name: read_json(folder / "eval" / f"{name}.json") for name in names}


def _base_card(run: Run) -> dict[str, Any]:
    """Returns what the card of the base checkpoint says of the weights that this model has; {} if they are new."""
    path = run.workdir / "model" / BASE_CARD
    return read_json(path) if path.is_file() and run.config.model.init == "pretrained" else {}


def _describe_adapter(run: Run, base: str) -> str:
    """Returns a section that shows how to load an adapter with PEFT, or with the loader next to it."""
    family, kind = family_of(run.checkpoint.hf_config), head_kind(run.config.task)
    name = family.heads[kind].architecture
    checkpoint, _, suffix = base.partition("@")
    revision = suffix or run.config.model.revision
    arguments = repr(checkpoint) + (f", revision={revision!r}" if revision else "")
    start, load = "from peft import PeftModel\n", "PeftModel.from_pretrained(base, folder).eval()"
    if needs_loader(run):
        start, load = (
            "from adapter_loader import add_adapter  # the file in this folder\n",
            "add_adapter(base, folder)",
        )
    return (
        "This folder holds an adapter and the head, not the model:\n\n"
        "```python\n"
        f"{start}from transformers import AutoConfig, AutoTokenizer, {name}\n\n"
        'folder = "PATH_OF_THIS_FOLDER"\n'
        f"base = {name}.from_pretrained({arguments}, config=AutoConfig.from_pretrained(folder))\n"
        f"model = {load}\n"
        "tokenizer = AutoTokenizer.from_pretrained(folder)\n```\n\n"
    )


def _license(fields: CardFields, base_card: Mapping[str, Any]) -> str:
    """Returns a sentence about the licence of the weights."""
    if fields.license:
        return f"License: `{fields.license}`."
    if name := base_card.get("license"):
        name = base_card.get("license_name", name)
        return f"License: {code(name)}, that of the base checkpoint. The licence of the data may add to it."
    return "License: unknown, for neither the run nor the base checkpoint's card names one."


def _metadata(
    run: Run,
    title: str,
    evaluations: Mapping[str, JsonObject],
    fields: CardFields,
    base_card: Mapping[str, Any],
    is_adapter: bool,
) -> str:
    """Returns the YAML at the top of the card."""
    from huggingface_hub import EvalResult, ModelCardData  # slow to import

    task_card = load_card(run.config.task)
    results = [
        EvalResult(
            task_type=task_card.HUB_TASK,
            dataset_type=_public(evaluation["data"]),
            dataset_name=_public(evaluation["data"]),
            dataset_split=name,
            metric_type=metric,
            metric_name=text,
            metric_value=evaluation["metrics"][key],
        )
        for name, evaluation in evaluations.items()
        for metric, (key, text) in task_card.HUB_METRICS.items()
        if key in evaluation["metrics"]
    ]
    checkpoint, train = run.config.model.checkpoint, run.config.data.train
    on_hub = re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*(@.*)?", checkpoint) and not Path(checkpoint).exists()
    assert train is not None  # the run has trained
    dataset = re.fullmatch(r"hub:([^@:]+?)(?:[@:].*|/(?:train|validation|test)\b.*)?", train)
    inherited = {key: value for key, value in base_card.items() if key.startswith("license")}
    return ModelCardData(
        **({"license": fields.license} if fields.license else inherited),
        language=list(fields.language) or base_card.get("language"),
        library_name="peft" if is_adapter and not needs_loader(run) else "transformers",
        pipeline_tag=task_card.HUB_TASK,
        tags=list(dict.fromkeys([*task_card.HUB_TAGS, "jaxft", *fields.tags])),
        base_model=checkpoint.partition("@")[0] if on_hub else None,
        datasets=[dataset[1]] if dataset else None,
        metrics=list(dict.fromkeys(result.metric_type for result in results)) or list(task_card.HUB_METRICS),
        model_name=title,
        eval_results=results or None,
    ).to_yaml()


def _origin(run: Run, base: str, parameters: int) -> str:
    """Returns a list that says where the weights come from: base checkpoint, data and training."""
    config, summary = run.config, run.workdir / "summary.json"
    start = f"- Base checkpoint: {code(base)}"
    if base.startswith(RUN):
        start = f"- Base checkpoint: the best weights of the run {code(base.removeprefix(RUN))}"
    if base.startswith(NEW):
        start = "- Base checkpoint: none; all weights are from scratch"
    elif config.model.init == "scratch":
        start += " (sizes and tokenizer only: weights from scratch)"
    elif config.model.revision:
        start += f", revision {code(config.model.revision)}"
    lines = [*load_card(config.task).describe_model(run, parameters), start]
    if config.init_from:
        lines.append(f"- Weights at the start: the best of the run {code(_public(config.init_from))}")
    for name in ("train", "dev", "test"):
        if getattr(config.data, name):
            lines.append(f"- {name}: {code(_public(getattr(config.data, name)))}")
    if config.data.dev is None:
        lines.append(f"- dev: {config.data.dev_fraction:.0%} of train, split off with seed {config.seed}")
    if any("demo:" in str(getattr(config.data, name)) for name in ("train", "dev", "test")):
        lines.append("- `demo:` is a synthetic corpus from templates: the scores say little about real text.")
    if summary.is_file():
        totals = read_json(summary)
        lines.append(
            f"- Training: {totals['steps']:,} steps in {totals['train_s']:,.0f} s; these are the weights of step "
            f"{totals['best_step']:,}, the best by `{totals['selected_by']}` on dev"
        )
    else:
        lines.append("- Training had not finished when this was exported.")
    return "\n".join(lines)


def _settings(run: Run) -> str:
    """Returns the run's settings, and marks those that differ from the default."""
    by_default = defaults(type(run.config))
    lines = [
        f"{key} = {_public(value)!r}" + ("" if value == by_default[key] else "  # not the default")
        for key, value in sorted(flatten(run.config).items())
        if key != "task" and value is not None and not key.startswith(OMITTED_SETTINGS)
    ]
    return "```\n" + "\n".join(lines) + "\n```"


def _versions(folder: Path) -> str:
    """Returns the versions of packages that the run `folder` recorded."""
    try:
        versions = read_json(folder / "versions.json")
    except UserError:
        return "Not recorded."
    return (
        "Of the training run: " + ", ".join(f"{name} {version}" for name, version in versions.items()) + "."
    )
