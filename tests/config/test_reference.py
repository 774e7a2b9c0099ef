"""docs/settings.md, `--help` and `jaxft settings` say what the declarations say."""

import re
import subprocess
import sys

from jaxft.cli import choose
from jaxft.config import reference
from jaxft.training.settings import all_schemas
from tests.conftest import REPOSITORY


def test_the_page_of_settings_is_in_step_with_the_code():
    page = (REPOSITORY / "docs/settings.md").read_text(encoding="utf-8")
    assert page == reference.markdown_page(all_schemas()), (
        "python -m jaxft.training.settings > docs/settings.md"
    )


def test_every_setting_is_on_the_page_and_in_the_help():
    page, text = reference.markdown_page(all_schemas()), reference.help_text(all_schemas())
    for schema in all_schemas():
        for key, declaration in schema.declarations.items():
            assert declaration.help, key
            assert f"`{key}`" in page and f"--config.{key}=" in text


def test_settings_are_read_without_jax_or_transformers():
    """So that `--help` is quick."""
    script = "import sys, jaxft.training.settings as s; s.all_schemas(); print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"jax", "flax", "transformers", "datasets", "torch"} & set(loaded)


def test_the_help_of_training_lists_settings_by_section():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "jaxft.main", "--help"],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(
        r"\n  optim\n    --config\.optim\.lr=5e-05\n        highest learning rate \(a number\)", done.stdout
    )
    assert "  task question_answering\n" in done.stdout and "--coordinator HOST:PORT" in done.stdout
    assert not re.search(r"\| +(jax|transformers)$", done.stderr, re.MULTILINE)  # nothing slow is imported


def test_the_verb_settings_lists_those_of_a_task_by_section(capsys):
    choose.settings(["question_answering"])
    text = capsys.readouterr().out
    assert re.search(
        r"\n  optim\n    --config\.optim\.lr=5e-05\n        highest learning rate \(a number\)", text
    )
    assert "--config.eval.n_best=20" in text and "--config.model.crf" not in text
    choose.settings([])
    text = capsys.readouterr().out
    assert "\n  task question_answering\n" in text and "--config.model.crf=False" in text
