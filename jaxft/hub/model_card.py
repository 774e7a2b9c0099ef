"""Reads what the model card of a checkpoint, its README.md, says of its licence and language."""

from pathlib import Path
from typing import Any

import yaml

CARD = "README.md"
LONGEST = 1000  # characters of a field, and languages
FIELDS = (
    "license",
    "license_name",
    "license_link",
    "language",
)  # the fields that a fine-tuned model takes over


def read_card_fields(folder: Path) -> dict[str, Any]:
    """Returns the fields in `FIELDS` of the YAML at the top of a model card; {} without a card that can be read.

    Values that are neither short texts nor lists of them are left out: anybody may have written the card.
    """
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
    except (yaml.YAMLError, ValueError, RecursionError):  # of dates, numbers, values nested 10,000 deep
        return {}
    if not isinstance(fields, dict):
        return {}
    # YAML 1.1 reads the language "no", Norwegian, as False.
    languages = fields.get("language")
    if languages is not None:
        languages = languages if isinstance(languages, list) else [languages]
        fields["language"] = ["no" if language is False else language for language in languages]
    return {key: fields[key] for key in FIELDS if fields.get(key) and _is_short_text(fields[key])}


def _is_short_text(value: Any) -> bool:
    """Returns whether a value is a text, or a list of texts, of at most `LONGEST` characters each."""
    if isinstance(value, list):
        return len(value) <= LONGEST and all(isinstance(item, str) and _is_short_text(item) for item in value)
    return isinstance(value, str) and len(value) <= LONGEST and value.isprintable()
