"""What the model card says of a model that classifies texts."""

from collections.abc import Callable, Mapping

from jaxft.data.sources.labelled_texts import MULTI, NUMBER
from jaxft.tasks.run_facts import RunFacts
from jaxft.tasks.sequence_classification.task import has_transformers_class

TASK = "text-classification"  # the hub's name
TAGS = ["text-classification"]
# Metrics in the card's metadata, by their names there: key of the evaluation, and text.
METRICS = {
    "accuracy": ("accuracy", "accuracy"),
    "f1": ("f1_macro", "macro F1"),
    "matthews_correlation": ("mcc", "Matthews' correlation"),
    "roc_auc": ("roc_auc", "ROC AUC"),
    "mse": ("mse", "mean squared error"),
    "pearsonr": ("pearson", "Pearson correlation"),
    "spearmanr": ("spearman", "Spearman correlation"),
}


def origin(run: RunFacts, parameters: int) -> list[str]:
    """What the model is, in a paragraph and the first lines of a list."""
    problem = run.config.model.problem_type
    what = (
        "a number"
        if problem == NUMBER
        else f"{'any of' if problem == MULTI else 'one of'} {len(run.labels)} labels"
    )
    text = "pair of texts" if run.config.data.text_pair else "text"
    lines = [
        f"A {run.backbone_name} with a pooled linear layer that gives each {text} {what} "
        f"({parameters:,} parameters, float32), fine-tuned with jaxft (JAX/Flax) and converted to PyTorch's "
        "layout.",
        "",
    ]
    return lines if problem == NUMBER else [*lines, f"- Labels: {', '.join(run.labels)}"]


def scores(evaluations: Mapping[str, dict], public: Callable[[str], str]) -> str:
    """A table of each set's overall scores, and one of F1 by label."""
    heads = [f"{name} (`{public(found['data'])}`)" for name, found in evaluations.items()]
    rows = [f"| score | {' | '.join(heads)} |", "|---|" + "--:|" * len(heads)]
    names = list(dict.fromkeys(name for found in evaluations.values() for name in found["metrics"]))
    for name in (name for name in names if "/" not in name):
        cells = []
        for found in evaluations.values():
            value, interval = found["metrics"].get(name), (found.get("intervals") or {}).get(name)
            between = f" ({'–'.join(f'{x:.3f}' for x in interval)})" if interval else ""
            cells.append("-" if value is None else f"{value:.4g}{between}")
        rows.append(f"| {name} | {' | '.join(cells)} |")
    note = f"Read: {'; '.join(dict.fromkeys(found['method'] for found in evaluations.values()))}."
    if any("intervals" in found for found in evaluations.values()):
        note += " In brackets: 95% bootstrap intervals over texts; they don't cover the choice of seed."
    if "dev" in evaluations:
        note += " Dev chose the weights and any thresholds, so its scores are optimistic."
    labels = [name.removeprefix("f1/") for name in names if name.startswith("f1/")]
    if labels:
        rows += ["", f"| F1 by label | {' | '.join(evaluations)} |", "|---|" + "--:|" * len(heads)]
        for label in labels:
            values = (found["metrics"].get(f"f1/{label}") for found in evaluations.values())
            cells = ["-" if value is None else f"{value:.3f}" for value in values]
            rows.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join([*rows, "", note])


def usage(run: RunFacts) -> str:
    """How transformers, or the loader beside, is told to classify text."""
    data = run.config.data
    text = '{"text": "...", "text_pair": "..."}' if data.text_pair else '"..."'
    has_class = has_transformers_class(run.config, run.checkpoint.hf_config["model_type"])
    said = (
        "```python\nfrom transformers import pipeline\n\n"
        f'classify = pipeline("text-classification", model="PATH_OF_THIS_FOLDER", truncation=True, max_length='
        f"{data.max_length})\nclassify({text})\n```\n\n"
    )
    if not has_class:
        said = (
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
        said += f"The pipeline reads the beginning of long texts. {loader}" if has_class else loader
    if run.tuned.get("thresholds"):
        shown = ", ".join(f"{label} {value:.3f}" for label, value in run.tuned["thresholds"].items())
        where = "`top_k=None` shows all probabilities; the thresholds stand in config.json too"
        if not has_class:
            where = "they stand in heads.json too"
        said += f"A label is given from its probability's threshold on ({where}): {shown}. "
    return said.rstrip(" ")
