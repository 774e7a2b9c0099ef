"""Writes the sections of the model card of a model that classifies texts."""

from jaxft.data.sources.labels import MULTI, NUMBER
from jaxft.models.registry import read_model_config
from jaxft.tasks.card_tables import Evaluations, Redact, escape
from jaxft.tasks.labels.card import HUB_METRICS, describe_thresholds, tabulate_label_scores
from jaxft.tasks.run_facts import RunFacts
from jaxft.tasks.sequence_classification.settings import Settings
from jaxft.tasks.sequence_classification.task import has_transformers_class

__all__ = ["HUB_METRICS", "HUB_TAGS", "HUB_TASK", "describe_model", "describe_usage", "tabulate_scores"]

HUB_TASK = "text-classification"  # the hub's name of the task
HUB_TAGS = ["text-classification"]


def describe_model(run: RunFacts[Settings], parameters: int) -> list[str]:
    """Returns lines that describe the model: a paragraph and the first items of a list."""
    problem_type = run.config.model.problem_type
    if problem_type == NUMBER:
        label = "a number"
    else:
        label = f"{'any of' if problem_type == MULTI else 'one of'} {len(run.labels)} labels"
    text = "pair of texts" if run.config.data.text_pair else "text"
    lines = [
        f"A {run.backbone_name} with a pooled linear layer that gives each {text} {label} "
        f"({parameters:,} parameters, float32), fine-tuned with jaxft (JAX/Flax) and converted to PyTorch's "
        "layout.",
        "",
    ]
    return lines if problem_type == NUMBER else [*lines, f"- Labels: {', '.join(map(escape, run.labels))}"]


def tabulate_scores(evaluations: Evaluations, redact: Redact) -> str:
    """Returns a table of each data set's overall scores, and a table of F1 by label."""
    return tabulate_label_scores(evaluations, redact, "text")


def describe_usage(run: RunFacts[Settings]) -> str:
    """Shows how to classify with transformers, or `heads_loader.py` if transformers cannot or reads differently."""
    data = run.config.data
    text = '{"text": "...", "text_pair": "..."}' if data.text_pair else '"..."'
    has_class = has_transformers_class(run.config, read_model_config(run.checkpoint.hf_config))
    section = (
        "```python\nfrom transformers import pipeline\n\n"
        f'classify = pipeline("text-classification", model="PATH_OF_THIS_FOLDER", truncation=True, max_length='
        f"{data.max_length})\nclassify({text})\n```\n\n"
    )
    if not has_class:
        section = (
            "transformers has no class that computes this. `AutoModel` loads the backbone, `heads.safetensors` has the "
            "linear layer over it:\n\n"
        )
    if not has_class or data.truncation != "head":
        pair = ', "..."' if data.text_pair else ""
        loader = (
            "`heads_loader.py`, which says how they are laid out and needs torch, transformers and safetensors, reads "
            f"texts as training did (config.data.truncation={data.truncation!r}, {data.max_length} tokens a window)"
            f":\n\n```python\nfrom heads_loader import Model  # from this folder\n\n"
            f'ask = Model("PATH_OF_THIS_FOLDER")\nask("..."{pair})\n```\n\n'
        )
        section += f"The pipeline reads the beginning of long texts. {loader}" if has_class else loader
    section += describe_thresholds(run, "config.json" if has_class else "heads.json")
    return section.rstrip(" ")
