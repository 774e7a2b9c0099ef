"""Dependencies point one way, as the design says, and torch is imported nowhere but to verify an export."""

import ast
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).resolve().parents[1] / "jaxft"
# Lower layers know nothing of higher ones. A module or package that is not named here fails the test: give it a place.
LAYERS = (
    {"errors", "chips", "hlo_text"},
    {"durations", "hlo"},
    {"ranges"},
    {"paths", "stacks", "products", "config", "startup", "topology", "distributed"},
    {"models", "losses", "chunked_loss", "metrics", "data", "watch", "rendezvous"},
    {"report", "decoding", "cluster"},
    {"pretrained", "tasks"},
    {"optim", "sharding", "step", "checkpoint"},
    {"base_model"},
    {"build"},
    {"workdir", "estimate"},
    {"inference", "model_card", "predictions"},
    {"export_heads"},
    {"evaluate", "predict", "export", "generate", "plan", "serve"},
    {"train"},
    {"main"},
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
MODULES = sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")


def imports(path: pathlib.Path) -> list[tuple[str, bool]]:
    """Full names of what a module imports, and whether it does so when it is itself imported."""
    tree = ast.parse(path.read_text())
    inner = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for node in ast.walk(function)
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, id(node) not in inner) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found += [(f"{node.module}.{alias.name}", id(node) not in inner) for alias in node.names]
    return found


def place(name: str) -> str:
    """The module or package of jaxft that a full name or a file's parts lie in."""
    return name.split(".")[1]


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    own = path.relative_to(PACKAGE).with_suffix("").parts[0]
    assert own in LEVEL, f"{own} has no layer"
    for name, _ in imports(path):
        if name.startswith("jaxft."):
            other = place(name)
            assert other == own or LEVEL[other] < LEVEL[own], f"{path.name} imports {name}"


def test_what_each_part_must_not_know():
    forbidden = {
        "models": ("jaxft.tasks", "jaxft.data", "jaxft.config.loading", "ml_collections", "transformers"),
        "data": ("jax", "jaxft.config.loading", "ml_collections", "flax"),
        "metrics": ("jax", "jaxft.config.loading", "ml_collections", "flax", "jaxft.data"),
        "tasks": ("optax", "jaxft.training.step", "jaxft.parallel.mesh", "jaxft.training.optimizer"),
    }
    for package, names in forbidden.items():
        for path in (PACKAGE / package).glob("*.py"):
            for found, _ in imports(path):
                bad = [n for n in names if found == n or found.startswith(n + ".")]
                assert not bad, f"{package}/{path.name} imports {found}"


def test_torch_and_pickle_are_not_imported():
    for path in MODULES:
        for name, at_start in imports(path):
            root = name.split(".")[0]
            assert root != "pickle", path
            assert root != "torch" or (path.name == "export.py" and not at_start), path
