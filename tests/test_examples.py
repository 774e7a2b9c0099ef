"""The notebooks run: on tiny recipes in the place of those that they name, and in a process of their own."""

import itertools
import json
import subprocess

import pytest

from jaxft.data.demo.classification import generate_records
from tests.conftest import REPOSITORY

# Runs the code cells of a notebook, as a notebook does, and shows the value of each.
RUN = """
import ast, json, sys

notebook, names = json.load(open(sys.argv[1])), {}
for number, cell in enumerate(notebook["cells"]):
    if cell["cell_type"] != "code":
        continue
    body = ast.parse("".join(cell["source"])).body
    last = ast.Expression(body.pop().value) if isinstance(body[-1], ast.Expr) else None
    exec(compile(ast.Module(body, []), f"cell {number}", "exec"), names)
    if last is not None:
        value = eval(compile(last, f"cell {number}", "eval"), names)
        picture = value._repr_png_() if hasattr(value, "_repr_png_") else b""
        print(f"value of cell {number}:", f"a picture of {len(picture)} bytes" if picture else repr(value))
"""


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("quickstart", ["Run('runs/quickstart')", "a picture of", "'predicted_label':", "no key 'revue'"]),
        ("hf_migration", ["'batch.examples': 8", "did you mean config.optim.lr?", "words are wrong", "'entities':"]),
    ],
)  # fmt: skip
def test_a_notebook_runs(name, shown, tiny_bert, environment, python, tmp_path):
    (tmp_path / "configs").mkdir()
    records = itertools.islice(generate_records("demo:intent/train"), 120)
    (tmp_path / "requests.jsonl").write_text("".join(json.dumps(record) + "\n" for _, _, record in records))
    sets = dict.fromkeys(("train", "dev", "test"), str(tmp_path / "requests.jsonl"))
    for recipe, data in (("intent", sets), ("sentiment", sets), ("ner", {})):
        values = {"recipe": str(REPOSITORY / f"configs/{recipe}.py"), "model": {"checkpoint": str(tiny_bert)}}
        values |= {"data": data | {"cache_dir": "off", "max_length": 64}, "log": {"tensorboard": False}}
        values |= {"train": {"steps": 2}, "batch": {"rows": 4}, "eval": {"rows": 8, "bootstrap": 0}}
        (tmp_path / f"configs/{recipe}.yaml").write_text(json.dumps(values))
    notebook = REPOSITORY / f"examples/{name}.ipynb"
    done = subprocess.run(
        [*python, "-c", RUN, str(notebook)], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(text in done.stdout for text in shown), done.stdout
