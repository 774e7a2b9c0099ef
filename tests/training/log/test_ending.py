"""The last lines of a run name its scores, with intervals where there are any, and what to do next."""

import shlex
from types import SimpleNamespace

import pytest

from jaxft.cli import verbs
from jaxft.io.files import write_json
from jaxft.training.log.ending import ending_lines
from jaxft.training.settings import settings_from_config

FACTS = {"steps": 4000, "best_step": 1200, "is_best": True}


EVALUATOR = SimpleNamespace(summarize=lambda values: f"F1 {values['f1']:.2f}")


@pytest.mark.parametrize("task", ["token_classification", "causal_lm"])
def test_scores_have_intervals_and_commands_can_be_pasted(tmp_path, task):
    workdir = tmp_path / "my run"
    intervals = {"confidence": 0.95, "f1": [0.5, 0.625]}
    write_json(workdir / "eval/dev.json", {"intervals": intervals})
    write_json(workdir / "eval/test.json", {})
    config = settings_from_config({"task": task})
    results = {"dev": {"f1": 0.55}, "test": {"f1": None}}
    lines = list(ending_lines(config, workdir, EVALUATOR, results, selection_metric="f1", **FACTS))
    assert lines[:4] == [
        "scores, with the weights of step 1,200 of 4,000, the best by f1 on dev:",
        "  dev: F1 0.55; 95% interval of f1 50.00\u201362.50",
        "  test: F1 nan",
        "next:",
    ]
    facts = FACTS | {"is_best": False}
    others = ending_lines(config, workdir, EVALUATOR, results, selection_metric="f1", **facts)
    assert next(others).endswith("1,200 of 4,000, the last, for the best cannot be read:")
    first, export, board = (shlex.split(line) for line in lines[4:])
    run = ["--run", str(workdir)]
    if task == "causal_lm":
        assert first == ["jaxft", "generate", *run, "--prompt", "Once upon a time"]
    else:
        assert first == ["echo", "Anna Smith moved to Berlin .", "|", "jaxft", "predict", *run]
    assert export == ["jaxft", "export", *run, "--output", f"{workdir}/export"]
    assert board == ["tensorboard", "--logdir", f"{workdir}/tensorboard"]
    assert {"predict", "generate", "export"} <= set(verbs.VERBS)


def test_intervals_of_several_tasks_are_in_their_evaluations(tmp_path):
    for name, bounds in (("words", [0.1, 0.2]), ("texts", [0.3, 0.4])):
        write_json(tmp_path / f"eval/dev-{name}.json", {"intervals": {"confidence": 0.9, "f1": bounds}})
    config = settings_from_config({"task": "token_classification", "log": {"tensorboard": False}})
    lines = list(
        ending_lines(
            config,
            tmp_path,
            EVALUATOR,
            {"dev": {"f1": 1}},
            selection_metric="words/f1+texts/f1+x/loss",
            **FACTS,
        )
    )
    assert lines[1] == (
        "  dev: F1 1.00; 90% interval of words/f1 10.00\u201320.00; 90% interval of texts/f1 30.00\u201340.00"
    )
    assert "tensorboard" not in lines[-1]
