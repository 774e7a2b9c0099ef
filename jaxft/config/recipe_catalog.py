"""Finds recipes, and reads what their docstrings tell: what a recipe does, and its measured results."""

import ast
import difflib
import re
import textwrap
from pathlib import Path

from jaxft.errors import UserError

ADDRESS = re.compile(r"(.*?\.(?:py|json|ya?ml))(?::(.*))?", re.DOTALL)
_NAME = re.compile(r"([\w-]+)(?::(.*))?", re.DOTALL)  # of a recipe in `RECIPE_FOLDERS`
# The user's own recipes, and those of jaxft: a link to configs/ in a checkout, files in an installed package.
RECIPE_FOLDERS = (Path("configs"), Path(__file__).parents[1] / "recipes")
_VARIANTS = re.compile(r"\[:([\w|-]+)\]")  # in the first line of a docstring
_ENTRY = re.compile(r"([\w-]+(?:, [\w-]+)*)(?:  +(.*))?")  # the first line about a variant, or about several
_RESULT = re.compile(r"(?:Not )?[Mm]easured\b.*", re.DOTALL)


def recipe_name(address: str) -> str:
    """Returns a name for the runs of a recipe: "ner" for "configs/ner.py", "ner-wnut17" for "configs/ner.py:wnut17"."""
    address = find_recipe(address)
    stem, _, arg = address.rpartition("/")[2].partition(".")
    arg = arg.partition(":")[2]
    return f"{stem}-{arg}" if arg else stem


def find_recipe(address: str) -> str:
    """Returns the address of the recipe in `RECIPE_FOLDERS` that "sentiment:gpt2" names; other addresses unchanged."""
    match = _NAME.fullmatch(address)
    if match and not Path(address).is_file():
        for folder in RECIPE_FOLDERS:
            for path in sorted(folder.glob(f"{match[1]}.*")):
                if ADDRESS.fullmatch(str(path)):
                    return f"{path}:{match[2]}" if match[2] else str(path)
    return address


def recipe_paths() -> dict[str, Path]:
    """Returns the recipes in Python that are in `RECIPE_FOLDERS`, by name, in the order of names."""
    paths = {path.stem: path for folder in reversed(RECIPE_FOLDERS) for path in sorted(folder.glob("*.py"))}
    return dict(sorted(paths.items()))


def find_recipe_file(address: str, where: str, *, lists_known: bool = True) -> tuple[Path, str | None]:
    """Returns the file of the recipe that `address` names, and the argument after its colon.

    Args:
      address: as in `config.loading.load`.
      where: the place that names the address, for messages.
      lists_known: whether the message about a missing file lists the recipes that are there.

    Raises:
      UserError: there is no such file, or it cannot be a recipe.
    """
    address = find_recipe(address)
    match = ADDRESS.fullmatch(address)
    path = Path(match[1] if match else address)
    if not path.is_file():
        near = difflib.get_close_matches(Path(address.partition(":")[0]).stem, recipe_paths(), 1)
        meant = f" (did you mean {near[0]}?)" if near else ""
        known = f", or the name of one of these{meant}:{list_recipes()}" if lists_known else ""
        raise UserError(f"{where}: no file {path}; expected a recipe such as configs/ner.py{known}")
    if not match:
        raise UserError(f"{where}: expected a recipe in Python, YAML or JSON, or a run's config.json")
    return path, match[2]


def read_docstring(path: Path) -> str:
    """Returns the docstring of a recipe in Python, or "" for a file without one."""
    try:
        return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    except (OSError, ValueError, SyntaxError):
        return ""


def summarize(docstring: str) -> str:
    """Returns what the first line of a recipe's docstring says, without the addresses of its variants."""
    return docstring.partition("\n")[0].partition(": `--config")[0].rstrip(".")


def read_results(docstring: str) -> dict[str, str]:
    """Returns the sentences on what was measured, by variant: {"offline": "Measured, seed 0: ..."}.

    The first line of the docstring names the variants. A line that begins with one of them, or with several and commas
    between, opens the text about it; the lines of that text are indented. The default variant comes first.
    """
    match = _VARIANTS.search(docstring.partition("\n")[0])
    variants = match[1].split("|") if match else []
    texts: dict[str, list[str]] = {}
    current: list[str] = []
    for line in docstring.splitlines()[1:]:
        if (match := _ENTRY.fullmatch(line)) and set(match[1].split(", ")) <= set(variants):
            current = texts.setdefault(match[1], [match[2] or ""])
        elif line.startswith(" "):
            current.append(line.strip())
        else:
            current = []
    results = {name: _RESULT.search(" ".join(lines)) for name, lines in texts.items()}
    return {name: result[0] if result else "" for name, result in results.items()}


def list_recipes() -> str:
    """Returns a line for each recipe: its name, and what it does."""
    recipes = {name: summarize(read_docstring(path)) for name, path in recipe_paths().items()}
    return "".join(f"\n  {name:<12} {summary}".rstrip() for name, summary in recipes.items())


def describe_recipes() -> str:
    """Returns a few lines about each recipe: its name, what it does, and the results of its variants."""
    lines = ["The first variant of a recipe is its default: --config ner is --config ner:offline.", ""]
    for name, path in recipe_paths().items():
        docstring = read_docstring(path)
        lines.append(f"{name:<12} {summarize(docstring)}".rstrip())
        for variant, result in read_results(docstring).items():
            lines += textwrap.wrap(
                f"{name}:{variant}  {result}", 100, initial_indent="  ", subsequent_indent="    ",
                break_long_words=False, break_on_hyphens=False,
            )  # fmt: skip
        lines.append("")
    lines.append("jaxft recipes NAME: all about a recipe. jaxft init NAME: a copy for you to edit.")
    return "\n".join(lines)
