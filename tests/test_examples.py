"""Notebooks and the page on Python run: on tiny recipes in the place of those that they name, each in a process."""

import itertools
import json
import subprocess

import pytest
from markdown_it import MarkdownIt

from jaxft.data.demo.classification import generate_records
from tests.conftest import REPOSITORY

# Runs cells of code as a notebook does, and shows the value of each one's last line.
RUN = """
import ast, json, sys

def show(value):
    if value is not None:
        print(f"a picture of {len(value._repr_png_())} bytes" if hasattr(value, "_repr_png_") else repr(value))


sys.displayhook, names = show, {}
for number, cell in enumerate(json.loads(sys.argv[1])):
    *lines, last = ast.parse(cell).body
    exec(compile(ast.Module(lines, []), f"cell {number}", "exec"), names)
    exec(compile(ast.Interactive([last]), f"cell {number}", "single"), names)  # calls displayhook
"""


def read_cells(path) -> list[str]:
    """The cells of code in a notebook, or in a page of text."""
    if path.suffix == ".md":
        return [
            t.content
            for t in MarkdownIt().parse(path.read_text())
            if t.type == "fence" and t.info == "python"
        ]
    cells = json.loads(path.read_text())["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("examples/quickstart.ipynb", ["Run('runs/quickstart')", "a picture of", "'predicted_label':", "key 'revue'"]),
        ("examples/hf_migration.ipynb", ["'batch.examples': 8", "config.optim.lr?", "words are wrong", "'entities':"]),
        pytest.param(
            "docs/python_api.md", ["'predicted_label':", "PosixPath('exported')"], marks=pytest.mark.sweep
        ),
    ],
)  # fmt: skip
def test_cells_run(path, shown, tiny_bert, environment, python, tmp_path):
    (tmp_path / "configs").mkdir()
    records = itertools.islice(generate_records("demo:intent/train"), 120)
    (tmp_path / "requests.jsonl").write_text("".join(json.dumps(record) + "\n" for _, _, record in records))
    sets = dict.fromkeys(("train", "dev", "test"), str(tmp_path / "requests.jsonl"))
    for recipe, data in (("intent", sets), ("sentiment", sets), ("ner", {})):
        values = {"recipe": str(REPOSITORY / f"configs/{recipe}.py"), "model": {"checkpoint": str(tiny_bert)}}
        values |= {"data": data | {"cache_dir": "off", "max_length": 64}, "log": {"tensorboard": False}}
        values |= {"train": {"steps": 2}, "batch": {"rows": 4}, "eval": {"rows": 8, "bootstrap": 0}}
        (tmp_path / f"configs/{recipe}.yaml").write_text(json.dumps(values))
    cells = json.dumps(read_cells(REPOSITORY / path))
    done = subprocess.run(
        [*python, "-c", RUN, cells], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(text in done.stdout for text in shown), done.stdout
