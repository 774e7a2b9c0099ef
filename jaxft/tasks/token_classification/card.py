"""What the model card says of a model that labels words."""

from collections.abc import Callable, Mapping

from jaxft.tasks.run_facts import RunFacts
from jaxft.tasks.token_classification.task import forms_entities

TASK = "token-classification"  # the hub's name
TAGS = ["token-classification"]
# Metrics in the card's metadata, by their names there: key of the evaluation, and text.
METRICS = {name: (f"entity_{name}", f"entity {name}, strict") for name in ("f1", "precision", "recall")}
METRICS["accuracy"] = ("token_accuracy", "accuracy of words")


def origin(run: RunFacts, parameters: int, head: str = "a linear layer") -> list[str]:
    """What the model is, in a paragraph and the first lines of a list."""
    entities = forms_entities(run.config, run.labels)
    kind = "IOB2 labels" if entities else "labels"
    types = dict.fromkeys(label[2:] for label in run.labels if label != "O") if entities else run.labels
    return [
        f"A {run.backbone_name} with {head} over {len(run.labels)} {kind} ({parameters:,} parameters, float32), "
        f"fine-tuned with jaxft (JAX/Flax) and converted to PyTorch's layout.",
        "",
        f"- {'Types' if entities else 'Labels'}: {', '.join(types) or 'none'}",
    ]


def scores(evaluations: Mapping[str, dict], public: Callable[[str], str]) -> str:
    """Tables of entity scores, of all types and by type; of labels without entities, of accuracy and F1 by label."""
    if not any("entity_f1" in found["metrics"] for found in evaluations.values()):
        return _label_scores(evaluations, public)
    rows = ["| set | sentences | entities | precision | recall | F1 | F1, lenient |", "|---|" + "--:|" * 6]
    for name, found in evaluations.items():
        metrics, intervals = found["metrics"], found.get("intervals") or {}
        cells = [f"{name} (`{public(found['data'])}`)", f"{found['sentences']:,}"]
        cells.append(f"{metrics['entity_support']:,.0f}")
        for key in ("entity_precision", "entity_recall", "entity_f1", "lenient_f1"):
            cells.append(_percent(metrics, intervals, key))
        rows.append(f"| {' | '.join(cells)} |")
    note = (
        "Entities in percent, micro average: strict as seqeval in IOB2 mode, lenient as conlleval. "
        "Scored per word, sentences of any length whole."
    )
    rows += _by_kind(evaluations, "entity_f1/", "type")
    return "\n".join([*rows, "", note + _caveats(evaluations)])


def _label_scores(evaluations: Mapping[str, dict], public: Callable[[str], str]) -> str:
    rows = ["| set | sentences | words | accuracy | macro F1 | weighted F1 |", "|---|" + "--:|" * 5]
    for name, found in evaluations.items():
        metrics, intervals = found["metrics"], found.get("intervals") or {}
        cells = [f"{name} (`{public(found['data'])}`)", f"{found['sentences']:,}"]
        cells.append(f"{metrics['token_support']:,.0f}")
        for key in ("token_accuracy", "token_f1_macro", "token_f1_weighted"):
            cells.append(_percent(metrics, intervals, key))
        rows.append(f"| {' | '.join(cells)} |")
    rows += _by_kind(evaluations, "token_f1/", "label")
    return "\n".join([*rows, "", "In percent, of words." + _caveats(evaluations)])


def _percent(metrics: dict, intervals: dict, key: str) -> str:
    between = f" ({'–'.join(f'{100 * x:.1f}' for x in intervals[key])})" if key in intervals else ""
    return f"{100 * metrics[key]:.2f}{between}"


def _caveats(evaluations: Mapping[str, dict]) -> str:
    note = ""
    if any("intervals" in found for found in evaluations.values()):
        note += " In brackets: 95% bootstrap intervals over sentences; they don't cover the choice of seed."
    if "dev" in evaluations:
        note += " Dev chose the weights, so its scores are optimistic."
    return note


def _by_kind(evaluations: Mapping[str, dict], prefix: str, what: str) -> list[str]:
    """Lines of a table of the metrics that begin with `prefix`, none where there are none."""
    kinds = sorted({k for e in evaluations.values() for k in e["metrics"] if k.startswith(prefix)})
    if not kinds:
        return []
    rows = ["", f"| F1 by {what} | {' | '.join(evaluations)} |", "|---|" + "--:|" * len(evaluations)]
    for kind in kinds:
        values = (e["metrics"].get(kind) for e in evaluations.values())
        cells = ["-" if value is None else f"{100 * value:.2f}" for value in values]
        rows.append(f"| {kind.partition('/')[2]} | {' | '.join(cells)} |")
    return rows


def loader(run: RunFacts) -> str:
    """How the loader beside is told to tag words."""
    data = run.config.data
    subword = "last" if data.label_subwords == "last" else "first"
    context = " and were filled with the sentences around" if data.context else ""
    return (
        "`heads_loader.py`, which needs torch, transformers and safetensors and says what `heads.safetensors` holds, "
        "tags words:\n\n"
        "```python\nfrom heads_loader import Model  # from this folder\n\n"
        'ask = Model("PATH_OF_THIS_FOLDER")\n'
        'ask(["Anna", "lives", "in", "Oslo", "."])["tags"]\n```\n\n'
        f"Its words are those of the data in training; a word's tag is read at its {subword} subword. In training "
        f"windows had {data.max_length} subwords{context}."
    )


def usage(run: RunFacts) -> str:
    """How transformers, or the loader beside, is told to tag text."""
    opens = "`AutoModelForTokenClassification` loads this folder; transformers' pipeline"
    if run.config.data.label_subwords == "last":
        return (
            f"{opens} reads a word's label at its first subword, but it stands at the last one. {loader(run)}"
        )
    if not forms_entities(run.config, run.labels):
        return f"{opens} joins neighbouring words of one label. {loader(run)}"
    return (
        "```python\nfrom transformers import pipeline\n\n"
        'tag = pipeline("token-classification", model="PATH_OF_THIS_FOLDER", aggregation_strategy="first")\n'
        'tag("...")\n```\n\n'
        "A word's label is that of its first subword, hence `first`. The pipeline cuts text into words by the "
        f"tokenizer's rules; words were those of the data in training, in windows of {run.config.data.max_length} "
        "subwords."
    )
