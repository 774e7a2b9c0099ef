"""How we write, as far as it can be measured: no banned names, and docstrings that are there and open plainly."""

import ast
import collections
import pathlib
import re

import pytest

from tests.conftest import REPOSITORY

FOLDERS = ("jaxft", "configs", "benchmarks", "tests")
# Names that say nothing of what they hold. Whole identifiers only: `whole_rows` is fine.
BANNED = frozenset(
    "one found own said given wanted some whole again here apart together of parts say".split()
) | frozenset("_own _found _wanted _whole _apart _together _parts".split())
# A docstring opens with a verb, a noun or an article, not with these.
OPENERS = re.compile(
    r"(Of|What|Those|These|This|That|As|How|Whether|Which|Their|Its|By|In|On|From|To|For|With|At|Beside|Where|When"
    r"|It|They|Who|Whose|One|All|Each)\b"
)


def sources(*folders: str) -> list[pathlib.Path]:
    return sorted(path for folder in folders for path in (REPOSITORY / folder).rglob("*.py"))


def names_in(tree: ast.AST) -> list[tuple[str, int]]:
    """Every identifier that the module itself chooses: what it binds, defines, names as a parameter or an attribute."""
    out = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            out.append((node.id, node.lineno))
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            out.append((node.name, node.lineno))
        elif isinstance(node, ast.arg):
            out.append((node.arg, node.lineno))
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            out.append((node.attr, node.lineno))
        elif isinstance(node, ast.alias) and node.asname:
            out.append((node.asname, 0))
        elif isinstance(node, ast.ExceptHandler | ast.MatchAs) and node.name:
            out.append((node.name, node.lineno))
    return out


def banned_names(path: pathlib.Path) -> list[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [
        f"{path.relative_to(REPOSITORY)}:{line} {name}" for name, line in names_in(tree) if name in BANNED
    ]


def documented(tree: ast.Module) -> list[tuple[str, int, str | None]]:
    """(name, line, docstring) of the module, of each public class and function, and of each public method."""
    out = [("module", 1, ast.get_docstring(tree))]

    def visit(node: ast.AST, inside_class: bool) -> None:
        for child in node.body:
            if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                continue
            is_overload = "overload" in map(
                ast.unparse, child.decorator_list
            )  # what follows them has the docstring
            if not child.name.startswith("_") and not is_overload:
                out.append((child.name, child.lineno, ast.get_docstring(child)))
                if isinstance(child, ast.ClassDef):
                    visit(child, True)

    visit(tree, False)
    return out


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_banned_name(folder):
    bad = [line for path in sources(folder) for line in banned_names(path)]
    assert not bad, f"{len(bad)} names that say nothing: {bad[:20]}"


def test_docstrings_are_there_and_open_plainly():
    missing, openers = [], []
    for path in sources("jaxft"):
        for name, line, docstring in documented(ast.parse(path.read_text(encoding="utf-8"))):
            where = f"{path.relative_to(REPOSITORY)}:{line} {name}"
            if docstring is None:
                missing.append(where)
            elif OPENERS.match(docstring):
                openers.append(f"{where}: {docstring.splitlines()[0]}")
    assert not missing, f"without a docstring: {missing}"
    assert not openers, f"{len(openers)} docstrings open with a preposition or a pronoun: {openers[:20]}"


if __name__ == "__main__":  # python -m tests.test_words: what is left, by folder
    import sys

    counts = collections.Counter()
    for path in sources(*FOLDERS):
        if any(path.is_relative_to(REPOSITORY / folder) for folder in sys.argv[1:] or FOLDERS):
            lines = banned_names(path)
            if path.is_relative_to(REPOSITORY / "jaxft"):
                for name, line, docstring in documented(ast.parse(path.read_text(encoding="utf-8"))):
                    if docstring is None or OPENERS.match(docstring):
                        lines.append(
                            f"{path.relative_to(REPOSITORY)}:{line} {name}: {(docstring or 'NONE')[:90]!r}"
                        )
            counts[str(path.parent.relative_to(REPOSITORY))] += len(lines)
            if sys.argv[1:]:
                print(*lines, sep="\n")
    print(*(f"{count:5} {folder}" for folder, count in counts.items()), sep="\n")
