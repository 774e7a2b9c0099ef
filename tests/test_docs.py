"""The documentation names files that are there, and its commands have flags, settings, recipes and files that exist."""

import ast
import functools
import re
import runpy
import shlex
import tomllib

import pytest
from markdown_it import MarkdownIt

from jaxft.cli import verbs
from jaxft.config import recipe_catalog
from jaxft.layers.heads.kinds import HeadKind
from jaxft.models.registry import FAMILIES
from jaxft.training.settings import load_settings
from tests.conftest import REPOSITORY

PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "launch/*.md")
    for path in REPOSITORY.glob(pattern)
    if path.name != "CHANGELOG.md"
)
page_of_each_test = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
# Where the files are that pages name; `docs/extending` has additions to the tree.
FOLDERS = [REPOSITORY, REPOSITORY / "jaxft", *(REPOSITORY / "docs/extending").glob("*/")]
# Commands of other projects, and of the shell.
OTHER_COMMANDS = {
    "awk",
    "cat",
    "cd",
    "curl",
    "echo",
    "eval",
    "git",
    "pip-audit",
    "printf",
    "sky",
    "source",
    "tensorboard",
}


@page_of_each_test
def test_files_that_a_page_names_exist(page):
    text = page.read_text(encoding="utf-8")
    names = set(re.findall(r"(?<![\w/.-])((?:[\w*]+/)+[\w*]+\.(?:py|md|sh|ipynb))", text))
    missing = [name for name in names if not any([*folder.glob(name)] for folder in (*FOLDERS, page.parent))]
    assert not missing, f"{page.name} names files that are not there: {missing}"
    assert names or page.name != "design.md"
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    missing = [link for link in links if link and not (page.parent / link).exists()]
    assert not missing, f"{page.name} links to files that are not there: {missing}"


@page_of_each_test
def test_commands_of_a_page_are_commands(page, tmp_path, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    blocks = [token for token in MarkdownIt().parse(page.read_text()) if token.type == "fence"]
    for block in blocks:  # recipes that a page shows, under their names
        if named := re.match(r"# (\w+\.yaml)\n", block.content):
            (tmp_path / named[1]).write_text(block.content)
    for block in blocks:
        if block.info == "bash":
            for command in split_commands(block.content):
                check_command(command, tmp_path)


def test_wrong_commands_are_seen(tmp_path):
    for command in (
        "jaxft trian --config ner",
        "jaxft train --config nerr",
        "jaxft train --config ner --config.optim.rate=1",
        "jaxft predict --run runs/ner --inputs text.txt",
        "make nothing",
        "pip install -e '.[nothing]'",
        "python benchmarks/nothing.py",
        "python benchmarks/attention.py --nothing 3",
        "python -m pytest tests/nothing.py",
        "launch/slurm.sh --nodes 2 -- --config nerr",
        "nothing",
    ):
        with pytest.raises(AssertionError):
            check_command(shlex.split(command), tmp_path)


def test_readme_is_short():
    assert len((REPOSITORY / "README.md").read_text().splitlines()) <= 150


def test_results_in_the_pages_of_tasks_are_those_of_recipes():
    checked = 0
    for page in (REPOSITORY / "docs/tasks").glob("*.md"):
        table = page.read_text().partition("## Reference result")[2]
        for row in re.findall(r"^\| .*`.*", table, re.MULTILINE):
            command, *cells = row.strip("| ").split(" | ")
            name, _, variant = re.search(r"(\w+)(:\w+)?`", command).group().rstrip("`").partition(":")
            results = recipe_catalog.read_results(
                recipe_catalog.read_docstring(REPOSITORY / f"configs/{name}.py")
            )
            result = next(
                text for names, text in results.items() if not variant or variant in names.split(", ")
            )
            for number in re.findall(r"\d+(?:\.\d+)?", " ".join(cells).replace("F1 ", "")):
                assert re.search(rf"(?<![\d.]){re.escape(number)}(?!\.?\d)", result), f"{row}: {result}"
                checked += 1
    assert checked > 30


def test_the_page_of_models_says_what_families_are_there_and_what_they_can_do():
    text = (REPOSITORY / "docs/models.md").read_text()
    rows = re.findall(r"^\| `([\w-]+)` \|" + 7 * r" (yes)? *\|" + "$", text, re.MULTILINE)
    kinds = ("TOKEN", "SEQUENCE", "QUESTION", "MASKED", "NEXT_TOKEN", "SHARED", "IMAGE")
    described = {
        name: {HeadKind[kind] for kind, cell in zip(kinds, cells, strict=True) if cell}
        for name, *cells in rows
    }
    assert described == {name: set(family.heads) for name, family in FAMILIES.items()}
    for name, family in FAMILIES.items():
        assert re.search(rf"^\| .* \| `{name}` \| `", text, re.MULTILINE), name
        assert family.new_model and family.new_model.has_tokenizer == (name == "gpt2")


def test_page_on_hugging_face_is_current_and_complete():
    script = runpy.run_path(str(REPOSITORY / "docs/hugging_face.py"))
    tables = []

    def make(name):
        tables.append(name)
        return script["make_table"](name)  # an argument without a setting and a word on it is an error

    text = script["PAGE"].read_text()
    assert text == script["fill"](text, make), "it is old: run python docs/hugging_face.py"
    assert {*script["TASKS"], "all scripts", "TrainingArguments", "others"} == set(tables)


def split_commands(block):
    """Returns the commands of a block of a shell, each as a list of words; pipes divide them."""
    commands, text = [], ""
    for line in block.replace("\\\n", " ").splitlines():
        text += line + "\n"
        try:
            words = shlex.split(text, comments=True)
        except ValueError:  # a quoted text goes on in the next line
            continue
        text = ""
        command = []
        for word in words:
            if word in ("|", "&&"):
                commands.append(command)
                command = []
            else:
                command.append(word)
        commands.append(command)
    assert not text, f"a quotation without an end: {text}"
    return [command for command in commands if command]


def check_command(words, recipes):
    """Asserts that a command can be started, as far as that shows without running it."""
    while re.match(r"\w+=", words[0]):  # environment variables
        words = words[1:]
        if not words:
            return
    shown = shlex.join(words)
    name, *arguments = words
    for redirection in (">", "<"):
        if redirection in arguments:
            arguments = arguments[: arguments.index(redirection)]
    if name == "export" and "=" in arguments[0]:
        return
    name = name.rpartition(".venv/bin/")[2]
    if name in ("python", "python3"):
        if arguments[0] != "-m":
            assert (REPOSITORY / arguments[0]).is_file(), f"{shown}: no such file"
            check_flags(arguments[0], arguments[1:])
            return
        name, *arguments = arguments[1:]
        if name == "jaxft.main":
            name, arguments = "jaxft", ["train", *arguments]
    if name == "jaxft":
        check_verb(*arguments, recipes=recipes)
    elif name == "make":
        targets = re.findall(r"^(\w+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
        names = [word for word in arguments if "=" not in word]
        assert set(names) <= set(targets), f"{shown}: expected one of {targets}"
    elif name == "pip":
        check_pip(arguments)
    elif name == "pytest":
        for word in arguments:
            if word.startswith("tests"):
                assert (REPOSITORY / word.partition("::")[0]).exists(), f"{shown}: there is no {word}"
    elif name.startswith("tests."):
        path = REPOSITORY / name.replace(".", "/")
        assert path.is_dir() or path.with_suffix(".py").is_file(), f"{shown}: no such module"
        check_flags(
            *(
                [p for p in (f"{name.replace('.', '/')}/__main__.py",) if path.is_dir()]
                or [f"{name.replace('.', '/')}.py"]
            ),
            arguments,
        )
    elif name.startswith("launch/"):
        assert (REPOSITORY / name).is_file(), f"{shown}: no such file"
        check_verb("train", *arguments[arguments.index("--") + 1 :], recipes=recipes)
    else:
        assert name in {*OTHER_COMMANDS, "venv"} or name.startswith("jaxft."), f"{shown}: unknown command"


def check_verb(verb, *arguments, recipes):
    """Asserts that a verb takes these flags and settings."""
    if verb in ("--help", "--version"):
        return
    assert verb in verbs.VERBS, f"jaxft {verb}: no such verb"
    arguments = [word if not (recipes / word).is_file() else str(recipes / word) for word in arguments]
    try:
        flags, overrides = parser_of(verb).parse_known_args(arguments)
    except SystemExit as stop:
        assert not stop.code, f"jaxft {verb} {shlex.join(arguments)}: the flags are wrong"
        return
    if verb in ("train", "plan"):
        try:
            load_settings(flags.config, overrides)
        except Exception as error:
            raise AssertionError(f"jaxft {verb} {shlex.join(arguments)}: {error}") from error
    else:
        assert not overrides, f"jaxft {verb}: no flags {overrides}"


@functools.cache
def parser_of(verb):
    return getattr(verbs.import_module(verb), f"{verb}_parser")()


def check_flags(path, arguments):
    """Asserts that a script's text has the flags."""
    tree = ast.parse((REPOSITORY / path).read_text())
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    flags = {word.partition("=")[0] for word in arguments if word.startswith("--")}
    unknown = {flag for flag in flags if not {flag, flag.removeprefix("--")} & texts}
    assert not unknown, f"{path} has no flags {unknown}"


def check_pip(arguments):
    """Asserts that the extras and files of a `pip install` exist."""
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for word, value in zip(arguments, [*arguments[1:], ""], strict=True):
        if word in ("-c", "-r"):
            assert (REPOSITORY / value).is_file(), f"pip: there is no {value}"
        if match := re.search(r"\[(.*)\]$", word):
            assert set(match[1].split(",")) <= extras.keys(), f"pip: unknown extras in {word}"
