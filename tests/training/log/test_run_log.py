"""Writers of a run: W&B, the progress bar, metrics.jsonl."""

import io
import json
import sys
import types

import pytest
from rich.console import Console

from jaxft.errors import UserError
from jaxft.training.log.run_log import RunLog


class StandIn(types.ModuleType):
    """A module in wandb's place that keeps what it is told."""

    def __init__(self):
        super().__init__("wandb")
        self.told = []

    def init(self, **options):
        self.told.append(("init", options))
        return self

    def log(self, values, step):
        self.told.append(("log", step, values))

    def finish(self):
        self.told.append(("finish",))


@pytest.fixture
def wandb(monkeypatch):
    module = StandIn()
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def test_wandb_hears_settings_numbers_and_the_end(wandb, tmp_path):
    """A run that goes on does so under the id that it began with."""
    for _ in range(2):
        lines = RunLog(tmp_path / "first", tensorboard=False, wandb=True, config={"seed": 3})
        lines.workdir.mkdir(exist_ok=True)
        lines.start(0, 10)
        lines.write(4, "train", {"loss": 0.5})
        lines.close()
    once = [
        ("init", {"dir": str(tmp_path / "first"), "config": {"seed": 3}, "id": "first", "resume": "allow"}),
        ("log", 4, {"train/loss": 0.5}),
        ("finish",),
    ]
    assert wandb.told == once * 2


def test_wandb_that_is_missing_is_a_mistake_with_a_remedy(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(
        UserError, match="wandb is not installed: pip install wandb, or leave the setting out"
    ):
        RunLog(tmp_path, tensorboard=False, wandb=True, config={})


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_on_terminals_only_and_lines_on_both(terminal, tmp_path, capsys):
    lines = RunLog(tmp_path, tensorboard=False, wandb=False, config={})
    screen = io.StringIO()
    lines.console = Console(file=screen, force_terminal=terminal, width=100)
    lines.start(40, 120)
    lines.advance(80)
    lines.log("step 80/120  [dev] loss 1.5")  # brackets are no markup
    lines.close()
    assert "step 80/120  [dev] loss 1.5" in (screen.getvalue() if terminal else capsys.readouterr().out)
    assert ("80/120" in screen.getvalue().replace("step 80/120", "")) == terminal


def test_numbers_past_the_step_that_a_run_goes_on_from_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 4}\n{"step": 8}\n{"step": 12}\n{"step": 1')  # the last line was cut by a kill
    RunLog(tmp_path, tensorboard=False, wandb=False, config={}).start(8, 20)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [4, 8]
