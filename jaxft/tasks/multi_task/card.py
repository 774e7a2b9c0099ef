"""What the model card says of a model with several heads."""

from collections.abc import Callable, Mapping

from jaxft.tasks.multi_task.task_configs import make_task_configs
from jaxft.tasks.run_facts import RunFacts

TASK = "feature-extraction"  # the hub's name for a backbone; it has none for several tasks
TAGS = ["multi-task"]
METRICS: dict[str, tuple[str, str]] = {}  # in the card's metadata: none, for they would need a task each
SHOWN = ("f1_micro", "f1_macro", "subset_accuracy", "accuracy", "pearson", "spearman", "mse")
SHOWN += ("entity_f1", "entity_precision", "entity_recall", "token_accuracy", "token_f1_macro")


def origin(run: RunFacts, parameters: int) -> list[str]:
    """What the model is, in a paragraph and the first lines of a list."""
    tasks = make_task_configs(run.config)
    lines = [
        f"A BERT with {len(tasks)} heads ({parameters:,} parameters, float32), fine-tuned with jaxft (JAX/Flax) and "
        "converted to PyTorch's layout.",
        "",
    ]
    for name, own in tasks.items():
        labels = [label.partition("/")[2] for label in run.labels if label.partition("/")[0] == name]
        lines.append(f"- `{name}`, {own.task.replace('_', ' ')}: {', '.join(labels)}")
    return lines


def scores(evaluations: Mapping[str, dict], public: Callable[[str], str]) -> str:
    """A table of each set's overall scores by task."""
    heads = [f"{name} (`{public(found['data'])}`)" for name, found in evaluations.items()]
    rows = [f"| score | {' | '.join(heads)} |", "|---|" + "--:|" * len(heads)]
    names = dict.fromkeys(name for found in evaluations.values() for name in found["metrics"])
    for name in names:
        task, _, metric = name.partition("/")
        if metric in SHOWN or "+" in name:
            values = (found["metrics"].get(name) for found in evaluations.values())
            cells = ["-" if value is None else f"{value:.4g}" for value in values]
            rows.append(f"| {'mean of ' if '+' in name else ''}{name} | {' | '.join(cells)} |")
    note = (
        "Dev chose the weights and any thresholds, so its scores are optimistic."
        if "dev" in evaluations
        else ""
    )
    return "\n".join([*rows, "", note])


def usage(run: RunFacts) -> str:
    """How the heads are asked in torch."""
    words = any(own.task != "sequence_classification" for own in make_task_configs(run.config).values())
    text = '["Anna", "lives", "in", "Oslo", "."]' if words else '"..."'
    return (
        "transformers has no class for several heads. `AutoModel` loads the backbone; `heads.safetensors` has the linear "
        "layers, and `heads_loader.py`, which says how they are laid out and needs torch, transformers and "
        "safetensors, answers for all tasks:\n\n"
        "```python\nfrom heads_loader import Model  # from this folder\n\n"
        'ask = Model("PATH_OF_THIS_FOLDER")\n'
        f"ask({text})\n```\n\n"
        + ("Its words are those of the data in training. " if words else "")
        + f"In training windows had {run.config.data.max_length} subwords."
    )
