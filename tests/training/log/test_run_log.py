"""Writers of a run: W&B, TensorBoard, the progress bar, metrics.jsonl."""

import importlib.util
import io
import json
import re
import sys
import types

import pytest
from rich.console import Console
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

from jaxft.config.settings import to_dict
from jaxft.errors import UserError
from jaxft.metrics.entities import EntityState
from jaxft.training.log.run_log import RunLog, _shows_widgets
from jaxft.training.log.tags import tag_of
from jaxft.training.settings import settings_from_config


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


def make_config(**log):
    return settings_from_config({"task": "token_classification", "log": {"tensorboard": False} | log})


def test_wandb_hears_settings_numbers_and_the_end(wandb, tmp_path, monkeypatch):
    """A run that goes on does so under the id that it began with; names that the settings leave out are W&B's."""
    monkeypatch.delenv("WANDB_NAME", raising=False)
    folder = tmp_path / "lr1e-4/seed0"
    folder.mkdir(parents=True)
    config = make_config(wandb=True)
    for _ in range(2):
        lines = RunLog(folder, config)
        lines.start(0, 10, "entity_f1")
        lines.write(4, "train", {"loss": 0.5})
        lines.close()
    (_, options), *_ = wandb.told
    run_id = options.pop("id")
    assert re.fullmatch("[0-9a-f]{16}", run_id)
    assert options == {
        "dir": str(folder),
        "config": to_dict(config),
        "resume": "allow",
        "name": "lr1e-4/seed0",
    }
    options["id"] = run_id
    assert wandb.told == [("init", options), ("log", 4, {"train/loss": 0.5}), ("finish",)] * 2


def test_runs_in_folders_of_one_name_are_two_runs_for_wandb(wandb, tmp_path):
    """A sweep's lr1e-4/seed0 and lr3e-4/seed0 once were one run; a folder that has moved stays the run it was."""
    for rate in ("lr1e-4", "lr3e-4"):
        folder = tmp_path / rate / "seed0"
        folder.mkdir(parents=True)
        RunLog(folder, make_config(wandb=True)).start(0, 10, "entity_f1")
    folder.rename(tmp_path / "moved")
    options = {"wandb_project": "ner", "wandb_group": "sweep", "wandb_name": "a", "wandb_tags": ("x", "y")}
    RunLog(tmp_path / "moved", make_config(wandb=True, **options)).start(0, 10, "entity_f1")
    first, second, moved = (options for _, options in wandb.told)
    assert first["id"] != second["id"] == moved["id"]
    expected = {"project": "ner", "group": "sweep", "name": "a", "tags": ["x", "y"]}
    assert {key: moved[key] for key in expected} == expected


def test_wandb_that_is_missing_is_a_mistake_with_a_remedy(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(
        UserError, match=r"wandb is not installed: pip install -e '\.\[wandb\]', or leave the setting out"
    ):
        RunLog(tmp_path, make_config(wandb=True))


@pytest.mark.parametrize(
    ("metric", "tag"),
    [("entity_f1", "dev/entity_f1"), ("entity_f1/PER", "dev_by_label/entity_f1/PER")]
    + [("topic/accuracy", "dev/topic/accuracy"), ("topic/f1/a/b", "dev_by_label/topic/f1/a/b")]
    + [("examples", "dev_details/examples"), ("token_f1/loss", "dev_by_label/token_f1/loss")]
    + [("lenient_support", "dev_details/lenient_support")]
    + [("topic/f1_micro+sts/pearson", "dev/topic/f1_micro+sts/pearson"), ("f1_macro", "dev/f1_macro")],
)
def test_curves_of_labels_and_lesser_numbers_have_their_own_groups(metric, tag):
    assert tag_of("dev", metric) == tag


def test_tensorboard_has_few_curves_in_front_and_the_settings(tmp_path):
    """An entity tagger measures over a hundred numbers."""
    state = EntityState()
    state.update([["B-LOC", "O"]], [["B-LOC", "O"]], loss_sum=1.0, weight_sum=2.0)
    config = make_config(tensorboard=True)
    lines = RunLog(tmp_path, config)
    lines.start(0, 10, "entity_f1")
    train = ("loss", "grad_norm", "lr", "epoch", "real_tokens_per_s", "padding_fraction", "mfu")
    lines.write(4, "train", dict.fromkeys(train, 0.5))
    lines.write(4, "dev", state.compute())
    lines.close()
    [path] = (tmp_path / "tensorboard").iterdir()
    tags, settings, compared = [], {}, set()
    for event in read_events(path):
        for value in event.summary.value:
            if value.HasField("simple_value"):
                tags.append(value.tag)
            data = HParamsPluginData.FromString(value.metadata.plugin_data.content)
            settings |= dict(data.session_start_info.hparams)
            compared |= {metric.name.tag for metric in data.experiment.metric_infos}
    main = [tag for tag in tags if tag.startswith(("train/", "dev/"))]
    assert "dev/entity_f1" in main and 10 < len(main) <= 20 < len(tags)
    assert compared == {"dev/entity_f1", "dev/loss"}
    assert settings["optim.lr"].number_value == config.optim.lr
    assert not any(key.startswith("log.") for key in settings)


def read_events(path):
    """Yields the events of a TensorBoard file: each has its length, a checksum of that, its bytes and a checksum."""
    content = path.read_bytes()
    while content:
        size = int.from_bytes(content[:8], "little")
        yield Event.FromString(content[12 : 12 + size])
        content = content[16 + size :]


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_on_terminals_only_and_lines_on_both(terminal, tmp_path, capsys):
    lines = RunLog(tmp_path, make_config())
    screen = io.StringIO()
    lines.console = Console(file=screen, force_terminal=terminal, width=80)
    lines.start(40, 120, "entity_f1")
    lines.advance(80)
    lines.show(loss="loss 0.1234")
    lines.show(dev="dev entity_f1 0.5678")
    lines.log("step 80/120  [dev] loss 1.5")  # brackets are no markup
    lines.close()
    assert "step 80/120  [dev] loss 1.5" in (screen.getvalue() if terminal else capsys.readouterr().out)
    assert ("80/120" in screen.getvalue().replace("step 80/120", "")) == terminal
    bars = [line for line in re.split(r"[\r\n]", screen.getvalue()) if "train" in line]
    assert any("loss 0.1234 dev entity_f1 0.5678" in bar for bar in bars) == terminal


def test_numbers_past_the_step_that_a_run_goes_on_from_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    damaged = b'3\n"x"\n{"step": "4"}\n{}\n\xff\n'
    # The last line was cut by a kill.
    path.write_bytes(b'{"step": 4}\n' + damaged + b'{"step": 8}\n{"step": 12}\n{"step": 1')
    RunLog(tmp_path, make_config()).start(8, 20, "entity_f1")
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [4, 8]


def test_a_notebook_has_a_bar_where_it_can_show_one(tmp_path, monkeypatch):
    for can_show in (False, True):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, is_there=can_show: is_there or None)
        assert _shows_widgets(Console(force_jupyter=True)) is can_show
        assert not _shows_widgets(Console(force_jupyter=False))
