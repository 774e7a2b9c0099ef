"""Reads what the model card of a checkpoint, its README.md, says of its licence and language."""

from pathlib import Path
from typing import Any

import yaml

CARD = "README.md"
FIELDS = (
    "license",
    "license_name",
    "license_link",
    "language",
)  # the fields that a fine-tuned model takes over


def read_card_fields(folder: Path) -> dict[str, Any]:
    """Returns the fields in `FIELDS` of the YAML at the top of a model card; {} without a card that can be read."""
    try:
        text = (folder / CARD).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return {}
    opening, _, rest = text.lstrip("\ufeff").partition("---\n")
    header, end, _ = rest.partition("\n---")
    if opening.strip() or not end:
        return {}
    try:
        fields = yaml.safe_load(header)
    except yaml.YAMLError:
        return {}
    if not isinstance(fields, dict):
        return {}
    # YAML 1.1 reads the language "no", Norwegian, as False.
    languages = fields.get("language")
    if languages is not None:
        languages = languages if isinstance(languages, list) else [languages]
        fields["language"] = ["no" if language is False else str(language) for language in languages]
    return {key: fields[key] for key in FIELDS if fields.get(key)}
