"""Writes the sections of the model card of a model that classifies images."""

from jaxft.data.sources.labels import MULTI, NUMBER
from jaxft.tasks.card_tables import Evaluations, Redact, escape
from jaxft.tasks.image_classification.settings import Settings
from jaxft.tasks.labels.card import HUB_METRICS, describe_thresholds, tabulate_label_scores
from jaxft.tasks.run_facts import RunFacts

__all__ = ["HUB_METRICS", "HUB_TAGS", "HUB_TASK", "describe_model", "describe_usage", "tabulate_scores"]

HUB_TASK = "image-classification"  # the hub's name of the task
HUB_TAGS = ["image-classification", "vision"]


def describe_model(run: RunFacts[Settings], parameters: int) -> list[str]:
    """Returns lines that describe the model: a paragraph and the first items of a list."""
    problem_type, size = run.config.model.problem_type, run.config.data.image_size
    label = f"{'any of' if problem_type == MULTI else 'one of'} {len(run.labels)} labels"
    lines = [
        f"A {run.backbone_name} with a linear layer that gives each image "
        f"{'a number' if problem_type == NUMBER else label} ({parameters:,} parameters, float32), fine-tuned with "
        "jaxft (JAX/Flax) and converted to PyTorch's layout.",
        "",
        f"- Images: {size} x {size} pixels",
    ]
    return lines if problem_type == NUMBER else [*lines, f"- Labels: {', '.join(map(escape, run.labels))}"]


def tabulate_scores(evaluations: Evaluations, redact: Redact) -> str:
    """Returns a table of each data set's overall scores, and a table of F1 by label."""
    return tabulate_label_scores(evaluations, redact, "image")


def describe_usage(run: RunFacts[Settings]) -> str:
    """Shows how to classify with transformers; without torchvision, which its pipeline would need."""
    apply = {
        MULTI: "probabilities = logits.sigmoid()[0]\n"
        "print({model.config.id2label[i]: float(p) for i, p in enumerate(probabilities)})\n",
        NUMBER: "print(float(logits[0, 0]))\n",
    }
    single = "print(model.config.id2label[int(logits.argmax())], float(logits.softmax(-1).max()))\n"
    return (
        "```python\nimport torch\nfrom PIL import Image\n"
        "from transformers import AutoImageProcessor, AutoModelForImageClassification\n\n"
        'folder = "PATH_OF_THIS_FOLDER"\n'
        'processor = AutoImageProcessor.from_pretrained(folder, backend="pil")\n'
        "model = AutoModelForImageClassification.from_pretrained(folder).eval()\n"
        'image = Image.open("PATH_OF_AN_IMAGE").convert("RGB")\n'
        "with torch.inference_mode():\n"
        '    logits = model(**processor(image, return_tensors="pt")).logits\n'
        f"{apply.get(run.config.model.problem_type, single)}```\n\n{describe_thresholds(run, 'config.json')}"
    ).rstrip(" ")
