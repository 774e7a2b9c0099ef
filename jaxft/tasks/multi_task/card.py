"""Writes the sections of the model card of a model with several heads."""

from jaxft.tasks.card_tables import (
    Evaluations,
    Redact,
    escape,
    list_metrics,
    make_row,
    make_set_header,
    warn_of_dev,
)
from jaxft.tasks.multi_task.encoding import make_task_data
from jaxft.tasks.multi_task.names import select_labels
from jaxft.tasks.multi_task.settings import Settings, make_task_configs
from jaxft.tasks.run_facts import RunFacts

HUB_TASK = "feature-extraction"  # the hub's name for a backbone, because it has no name for several tasks
HUB_TAGS = ["multi-task"]
# Empty, because each metric in the card's metadata would need a task.
HUB_METRICS: dict[str, tuple[str, str]] = {}
SHOWN: tuple[str, ...] = ("f1_micro", "f1_macro", "subset_accuracy", "accuracy", "pearson", "spearman", "mse")
SHOWN += ("entity_f1", "entity_precision", "entity_recall", "token_accuracy", "token_f1_macro")


def describe_model(run: RunFacts[Settings], parameters: int) -> list[str]:
    """Returns lines that describe the model: a paragraph and the first items of a list."""
    task_configs = make_task_configs(run.config)
    lines = [
        f"A {run.backbone_name} with {len(task_configs)} heads ({parameters:,} parameters, float32), fine-tuned with "
        "jaxft (JAX/Flax) and converted to PyTorch's layout.",
        "",
    ]
    for name, task_config in task_configs.items():
        labels = ", ".join(map(escape, select_labels(run.labels, name)))
        lines.append(f"- `{name}`, {task_config.task.replace('_', ' ')}: {labels}")
    return lines


def tabulate_scores(evaluations: Evaluations, redact: Redact) -> str:
    """Returns a table of each data set's overall scores by task."""
    rows = make_set_header("score", evaluations, redact)
    for name in list_metrics(evaluations):
        _, _, metric = name.partition("/")
        is_mean = "+" in name
        if metric in SHOWN or is_mean:
            values = (evaluation["metrics"].get(name) for evaluation in evaluations.values())
            cells = ["-" if value is None else f"{value:.4g}" for value in values]
            rows.append(make_row([f"mean of {escape(name)}" if is_mean else escape(name), *cells]))
    note = warn_of_dev(evaluations, "the weights and any thresholds").lstrip()
    return "\n".join([*rows, "", note])


def describe_usage(run: RunFacts[Settings]) -> str:
    """Returns a section that shows how to use the heads in PyTorch."""
    has_words = any(data.reads_words for data in make_task_data(run.config).values())
    text = '["Anna", "lives", "in", "Oslo", "."]' if has_words else '"..."'
    return (
        "transformers has no class for several heads. `AutoModel` loads the backbone; `heads.safetensors` has the "
        "linear layers, and `heads_loader.py`, which says how they are laid out and needs torch, transformers and "
        "safetensors, answers for all tasks:\n\n"
        "```python\nfrom heads_loader import Model  # from this folder\n\n"
        'ask = Model("PATH_OF_THIS_FOLDER")\n'
        f"ask({text})\n```\n\n"
        + ("Its words are those of the data in training. " if has_words else "")
        + f"In training windows had {run.config.data.max_length} subwords."
    )
