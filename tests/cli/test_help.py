"""Help is quick, fits on a screen, and shows commands that work; the shell is told how a line may go on."""

import json
import shlex
import subprocess
import sys

import pytest

from jaxft.cli import choose, verbs
from jaxft.cli.verbs import VERBS

SCRIPT = """
import contextlib, io, json, runpy, sys
out = io.StringIO()
sys.argv[1:] = ARGUMENTS
with contextlib.redirect_stdout(out):
    try:
        code = runpy.run_module("jaxft", run_name="__main__") and 0
    except SystemExit as exit:
        code = exit.code
print(json.dumps({"help": out.getvalue(), "code": code, "modules": sorted(sys.modules)}))
"""
SLOW = {"jax", "jaxlib", "flax", "optax", "orbax", "transformers", "tokenizers", "datasets", "torch"}


def answer(*arguments):
    script = SCRIPT.replace("ARGUMENTS", repr(list(arguments)))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    result = json.loads(done.stdout)
    assert not SLOW & set(result["modules"]) and not result["code"]
    return result["help"]


@pytest.mark.parametrize("verb", VERBS)
def test_help_imports_nothing_slow_and_has_an_example(verb):
    text = answer(verb, "--help")
    assert text.startswith(f"usage: jaxft {verb} ") and f"example: {VERBS[verb].example}" in text


@pytest.mark.parametrize(
    "arguments", [["recipes"], ["recipes", "ner"], ["settings", "causal_lm"], ["--version"]]
)
def test_what_helps_to_choose_imports_nothing_slow(arguments):
    assert answer(*arguments)


def test_the_overview_fits_on_a_screen_and_its_examples_work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = verbs.help_text().splitlines()
    assert len(lines) <= 22 and max(map(len, lines)) <= 112
    for name, verb in VERBS.items():
        [line] = [line for line in lines if line.split()[:1] == [name]]
        assert verb.summary in line and verb.example in line
        program, first, *flags = shlex.split(verb.example)
        assert (program, first) == ("jaxft", name)
        parsed = getattr(verbs.import_module(name), f"{name}_parser")().parse_args(flags)
        assert name != "plan" or parsed.rows_per_device  # without data nobody knows the rows of a step


def test_a_mistyped_verb_is_answered_with_the_nearest(monkeypatch, capsys):
    for verb, hint in (("trian", "did you mean train?"), ("qqq", "expected one of train, evaluate")):
        monkeypatch.setattr(sys, "argv", ["jaxft", verb])
        with pytest.raises(SystemExit) as exit:
            verbs.main()
        assert (
            exit.value.code == 2 and f"error: jaxft {verb}: no such verb; {hint}" in capsys.readouterr().err
        )


@pytest.mark.parametrize(
    "line, expected",
    [
        ("jaxft re", {"recipes"}),
        ("jaxft train --conf", {"--config", "--config.optim.lr"}),
        ("jaxft train --config.optim.schedule=c", {"cosine", "constant"}),
        ("jaxft train --config ne", {"ner", "ner_crf"}),
        ("jaxft init qa", {"qa"}),
        ("jaxft evaluate --lay", {"--layout"}),
    ],
)
def test_a_shell_completes_verbs_flags_settings_and_recipes(line, expected, tmp_path):
    out = tmp_path / "completions"
    environment = {
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(out),
        "_ARGCOMPLETE_IFS": "\n",
        "_ARGCOMPLETE_COMP_WORDBREAKS": "=:",
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
    }
    command = [sys.executable, "-m", "jaxft"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    completions = {word.strip() for word in out.read_text().split("\n")}
    assert expected <= completions, completions
    assert "--workdir" not in completions


def test_init_copies_a_recipe_that_then_comes_first(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    choose.init(["ner:wnut17"])
    assert capsys.readouterr().out.endswith("edit it, then: jaxft train --config configs/ner.py:wnut17\n")
    path = tmp_path / "configs/ner.py"
    text = path.read_text()
    path.write_text(text.replace("config.train.epochs = 6.0", "config.train.epochs = 7.0"))
    assert choose.load_settings("ner:wnut17").train.epochs == 7.0
    for arguments, message in (
        (["ner"], "configs/ner.py is there already; name another file, --output=configs/ner_2.py"),
        (["nerr"], "jaxft init nerr: no file nerr; expected a recipe"),
        (["qa", "--output", "/proc/x/qa.py"], "/proc/x/qa.py cannot be written"),
    ):
        with pytest.raises(SystemExit) as exit:
            choose.init(arguments)
        assert exit.value.code == 2 and message in capsys.readouterr().err
