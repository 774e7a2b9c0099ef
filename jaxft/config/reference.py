"""Describes all settings from their declarations: as a command's help, and as a page of the documentation."""

import textwrap
from collections.abc import Sequence
from typing import Any

from jaxft.config.settings import Declaration, Schema, type_name

HELP_WIDTH = 110
_PAGE_TOP = """# Settings

Any setting can be given on the command line, `--config.optim.lr=3e-5`, or in a recipe. A recipe is a Python file with
a function `get_config(arg)` that returns a `ConfigDict`, or a YAML or JSON file of settings, with
`recipe: configs/ner.py:offline` as its base. A wrong key is an error that names the nearest one, and a setting of
another task says whose it is.

- `none` unsets a setting that may be unset.
- Pairs may be written `--config.loss.class_weights=O=0.5,B-PER=2`, or as Python does: `(("O", 0.5), ("B-PER", 2))`.
- The column "transformers" names what `TrainingArguments` or the `run_*.py` scripts call the same.

This page is generated from the declarations in `jaxft/config/` and `jaxft/tasks/*/settings.py`:
`python -m jaxft.training.settings > docs/settings.md`.
"""


def group_settings(schemas: Sequence[Schema]) -> dict[str, list[Declaration]]:
    """Groups the settings under headings: settings of all tasks by section, then other settings by task."""
    common = [key for key in schemas[0].declarations if all(key in schema.declarations for schema in schemas)]
    groups: dict[str, list[Declaration]] = {}
    for key in common:
        groups.setdefault(key.rpartition(".")[0] or "run", []).append(schemas[0].declarations[key])
    for schema in schemas:
        added = {key: declaration for key, declaration in schema.declarations.items() if key not in common}
        if schema.extends:  # inherited settings are listed with the tasks that declare them
            inherited = {
                key for other in schemas if other.task in schema.extends for key in other.declarations
            }
            added = {key: declaration for key, declaration in added.items() if key not in inherited}
        groups[f"task {schema.task}"] = list(added.values())
    return groups


def help_text(schemas: Sequence[Schema]) -> str:
    """Returns the text for `--help`: each setting with its default and description, by section."""
    lines = ["settings, by section:"]
    for heading, group in group_settings(schemas).items():
        lines += ["", f"  {heading}"]
        for declaration in group:
            lines.append(f"    --config.{declaration.key}={_shown(declaration.default)}")
            lines += textwrap.wrap(
                _described(declaration), HELP_WIDTH, initial_indent=" " * 8, subsequent_indent=" " * 8
            )
    return "\n".join(lines)


def markdown_page(schemas: Sequence[Schema]) -> str:
    """Returns the text of docs/settings.md."""
    lines = [_PAGE_TOP]
    for heading, group in group_settings(schemas).items():
        task = heading.removeprefix("task ")
        lines.append(f"## `{task}`, settings of this task\n" if heading != task else f"## `{heading}`\n")
        extended = next((schema.extends for schema in schemas if heading == f"task {schema.task}"), ())
        if extended:
            names = " and ".join(f"`{name}`" for name in extended)
            lines.append(f"Those of {names} too, as defaults for all of its tasks.\n")
        lines += ["| setting | default | | transformers |", "| --- | --- | --- | --- |"]
        for declaration in group:
            cells = (
                f"`{declaration.key}`",
                f"`{_shown(declaration.default)}`",
                _described(declaration),
                declaration.hf,
            )
            lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _shown(value: Any) -> str:
    return "none" if value is None else str(value)


def _described(declaration: Declaration) -> str:
    kind = type_name(declaration.kind) if declaration.kind is not object else "a duration"
    if declaration.choices:
        kind = "one of " + ", ".join(f"`{choice}`" for choice in declaration.choices)
    elif declaration.pairs is not None:
        kind = f"pairs, such as {declaration.example.rpartition(' or ')[2]}"
    return f"{declaration.help} ({kind}{', or none' if declaration.is_optional else ''})"
