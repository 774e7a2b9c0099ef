"""Imports point one way, as docs/design.md draws them; prints the order of layers with `pytest -s`."""

import ast
import pathlib
import re
import tomllib

import pytest

PACKAGE = pathlib.Path(__file__).resolve().parents[1] / "jaxft"
# From the top down: a folder uses only folders of rows below its own.
LAYERS = (
    ("__main__", "main"),
    ("cli",),
    ("run",),
    ("export", "planning"),
    ("inference",),
    ("training",),
    ("tasks",),
    ("adapters", "generation", "losses"),
    ("models",),
    ("hub",),
    ("layers", "metrics"),
    ("data",),
    ("parallel",),
    ("config",),
    ("io",),
    ("errors",),
)
LEVEL = {name: -row for row, names in enumerate(LAYERS) for name in names}
MODULES = sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")
MOST_FILES = 12  # of a folder, beside its __init__.py
# What a folder must not know, although it lies lower.
FORBIDDEN = {
    "data": ("jax", "flax", "ml_collections", "jaxft.config"),
    "metrics": ("jax", "flax", "ml_collections", "jaxft.config", "jaxft.data"),
    "layers": ("ml_collections", "transformers", "jaxft.config", "jaxft.data"),
    "hub": ("jaxft.data",),
    "models": ("jaxft.data",),
    "tasks": ("optax",),
}


def imports(path: pathlib.Path) -> list[tuple[str, bool]]:
    """Full names of what a module imports, and whether it does so when it is itself imported."""
    tree = ast.parse(path.read_text())
    inner = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for node in ast.walk(function)
    }
    imported = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported += [(alias.name, id(node) not in inner) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            imported += [(f"{node.module}.{alias.name}", id(node) not in inner) for alias in node.names]
    return imported


def test_order_of_layers():
    print("\n" + "\n".join("  ".join(row) for row in LAYERS))
    for path in MODULES:
        folder = path.relative_to(PACKAGE).with_suffix("").parts[0]
        assert folder in LEVEL, f"{folder} has no layer"
        upward = [
            name
            for name, _ in imports(path)
            if name.startswith("jaxft.")
            and (other := name.split(".")[1]) != folder
            and LEVEL[other] >= LEVEL[folder]
        ]
        assert not upward, f"{path} imports {upward}, which lie beside or above it"


def test_no_import_goes_in_a_circle():
    names = {".".join(p.relative_to(PACKAGE.parent).with_suffix("").parts): p for p in MODULES}
    graph = {
        module: {
            target
            for name, _ in imports(path)
            for target in (name, name.rpartition(".")[0], f"{name}.__init__")
            if target in names and target != module
        }
        for module, path in names.items()
    }
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join((*trail[trail.index(module) :], module))
        if module not in done:
            for target in graph[module]:
                visit(target, (*trail, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_order_within_data():
    level = {name: row for row, name in enumerate(("ragged", "demo", "sources", "encoding", "batching"))}
    for path in (PACKAGE / "data").rglob("*.py"):
        if path.parent == PACKAGE / "data" and path.stem == "__init__":
            continue
        folder = path.relative_to(PACKAGE / "data").with_suffix("").parts[0]
        for name, _ in imports(path):
            if name.startswith("jaxft.data.") and (other := name.split(".")[2]) != folder:
                # Demo corpora and the readers of their examples know each other's types.
                are_neighbours = {folder, other} == {"demo", "sources"}
                assert are_neighbours or level[other] < level[folder], f"{path} imports {name}"


@pytest.mark.parametrize("parent", ["tasks", "models"])
def test_siblings_do_not_know_each_other(parent):
    """Only the registries know all of them."""
    names = [path for path in (PACKAGE / parent).iterdir() if path.is_dir()]
    siblings = {path.name for path in names if (path / "task.py").exists() or (path / "network.py").exists()}
    for path in (PACKAGE / parent).rglob("*.py"):
        folder = path.relative_to(PACKAGE / parent).parts[0]
        if folder not in siblings:
            continue
        for name, _ in imports(path):
            if name.startswith(f"jaxft.{parent}.") and (other := name.split(".")[2]) in siblings:
                assert other == folder, f"{path} imports {name}"


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_what_a_folder_must_not_know(folder):
    for path in (PACKAGE / folder).rglob("*.py"):
        for name, _ in imports(path):
            bad = [n for n in FORBIDDEN[folder] if name == n or name.startswith(n + ".")]
            assert not bad, f"{path} imports {name}"


def test_torch_jax_internals_and_pickle_stay_where_they_may_be():
    """Pickles can run code: one module loads them, and only as tensors."""
    with_torch = ("with_torch.py", "pickled_weights.py", "heads_loader.py", "adapter_loader.py")
    unpicklers = {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    for path in MODULES:
        text = path.read_text()
        for name, at_start in imports(path):
            root = name.split(".")[0]
            assert root not in unpicklers, path
            is_for_types = "if TYPE_CHECKING:\n    import torch\n" in text
            assert root != "torch" or (path.name in with_torch and (is_for_types or not at_start)), path
            assert not name.startswith("jax._src") or path == PACKAGE / "parallel" / "jax_internals.py", path
        assert "allow_pickle" not in text, path
        loads = re.findall(r"torch\.load\((.*)", text)
        assert not loads or path.name == "pickled_weights.py", path
        assert all("weights_only=True" in load for load in loads), path


def test_folders_are_small():
    assert {p.name for p in PACKAGE.glob("*.py")} <= {
        "__init__.py", "__main__.py", "main.py", "run.py", "errors.py",
    }  # fmt: skip
    for folder in {p.parent for p in MODULES} - {PACKAGE}:
        files = [p.name for p in folder.glob("*.py") if p.name != "__init__.py"]
        assert len(files) <= MOST_FILES, f"{folder} has {len(files)} files: {sorted(files)}"


# Modules that have a word of our tasks or families outside their folders and the registries, and why it names neither.
KNOWN_NAMES = {
    "adapters/peft/config.py": "CAUSAL_LM is a task type of the library PEFT",
    "data/sources/images/processors.py": "ViTImageProcessor and DeiTImageProcessor are classes of transformers",
    "data/encoding/text_tokens.py": "BertNormalizer and BertPreTokenizer are classes of the library tokenizers",
}
TASK_NAMES = tuple(p.name for p in (PACKAGE / "tasks").iterdir() if (p / "task.py").exists())
FAMILY_NAMES = tuple(p.name for p in (PACKAGE / "models").iterdir() if (p / "network.py").exists())


# What only a few modules know: they pass on what holds it, and do not look into it. Names, or what is imported.
CONFINED = {
    "unstack": ("layers/transformer/layer_stacks.py", "training/train_state.py"),
    "unstacks_layers": ("training/train_state.py",),
    "jaxft.layers.transformer.layer_stacks.stack": ("training/train_state.py",),
    "jaxft.layers.transformer.layer_stacks.map_parameter_dicts": ("training/train_state.py",),
    "SequenceKey": (),  # which tells separate layers from stacks
    "whole_row_period": ("data/batching/", "layers/attention/"),
    "block_length": ("data/batching/", "layers/attention/", "inference/model.py"),  # which asks for none
}


@pytest.mark.parametrize("name", CONFINED)
def test_what_few_modules_know(name):
    """Layers that are not stacked, and blocks of rows."""
    for path in MODULES:
        fields = ("id", "attr", "arg", "name")
        known = {
            getattr(node, field, None) for node in ast.walk(ast.parse(path.read_text())) for field in fields
        }
        knows = name in known | {imported for imported, _ in imports(path)}
        module = path.relative_to(PACKAGE).as_posix()
        assert not knows or module.startswith(CONFINED[name]), module


def test_no_module_hides_errors_of_types():
    """A line may, with a reason; see `make lint`."""
    settings = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["tool"]["mypy"]
    assert not any("ignore_errors" in override for override in (settings, *settings["overrides"]))
    for path in MODULES:
        for line in path.read_text().splitlines():
            _, ignore, reason = line.partition("# type: ignore")
            assert not ignore or "# " in reason, f"{path}: {line}"


def texts_in(path: pathlib.Path) -> list[str]:
    """Returns the identifiers, imports and strings of a module, without its docstrings."""
    tree = ast.parse(path.read_text())
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node)
    }
    texts = []
    for node in ast.walk(tree):
        if id(node) in docstrings:
            continue
        for field in ("id", "attr", "arg", "name", "asname", "module", "value"):
            if isinstance(text := getattr(node, field, None), str):
                texts.append(text)
    return texts


# What runs and reports every task.
GENERAL = [
    f"training/{name}.py" for name in ("loop", "step", "train_state", "trainer", "starting_state", "programs")
]
GENERAL += [f"training/run_folder/{name}.py" for name in ("best", "checkpoint", "finished")]
GENERAL += ["tasks/report_files.py", "tasks/labels/report.py"]


@pytest.mark.parametrize("module", GENERAL)
def test_what_runs_every_task_knows_neither_texts_nor_images(module):
    kinds = re.compile(r"pixel|image|picture|token|sentence|input_ids|segment_ids", re.IGNORECASE)
    assert not [text for text in texts_in(PACKAGE / module) if kinds.search(text)]


def names_in(path: pathlib.Path) -> set[str]:
    """Returns the tasks and families in the identifiers, imports and strings of a module, but not in its docstrings."""
    # Not in the middle of a word, such as Alberta.
    pattern = re.compile(rf"(?<![a-z])({'|'.join((*TASK_NAMES, *FAMILY_NAMES))})", re.IGNORECASE)
    return {match.lower() for text in texts_in(path) for match in pattern.findall(text)}


def test_only_its_folder_and_the_registries_name_a_task_or_a_family():
    """A new one is then one folder and one line. Exceptions that are no longer needed leave the list."""
    names_by_file = {}
    for path in MODULES:
        folders = path.relative_to(PACKAGE).parts
        if path.name == "registry.py" or folders[0] == "recipes":
            continue
        if names := names_in(path) - set(folders):
            names_by_file["/".join(folders)] = sorted(names)
    assert names_by_file.keys() == KNOWN_NAMES.keys(), {
        name: names for name, names in names_by_file.items() if name not in KNOWN_NAMES
    } or f"no longer needed: {KNOWN_NAMES.keys() - names_by_file.keys()}"


def test_public_functions_have_types():
    """mypy checks the types that are there; code that computes may leave them out where only it is concerned."""

    def public_functions(body):
        for node in body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                yield from public_functions(node.body)
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                if not node.name.startswith("_") or node.name in ("__init__", "__call__"):
                    yield node

    missing = []
    for path in MODULES:
        for function in public_functions(ast.parse(path.read_text()).body):
            arguments = function.args
            named = arguments.posonlyargs + arguments.args + arguments.kwonlyargs
            named += [each for each in (arguments.vararg, arguments.kwarg) if each is not None]
            without = [
                each.arg for each in named if each.annotation is None and each.arg not in ("self", "cls")
            ]
            if function.returns is None and function.name != "__init__":
                without.append("return")
            if without:
                missing.append(
                    f"{path.relative_to(PACKAGE)}:{function.lineno} {function.name}: {', '.join(without)}"
                )
    assert not missing, "\n".join(missing)
