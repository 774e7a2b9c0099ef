"""The measurements of a GPU end in time, with whatever they started, and say what they gave."""

import runpy
import shlex
import sys
import time
from argparse import Namespace

from tests.conftest import REPOSITORY
from tests.test_docs import check_command

GPU = runpy.run_path(str(REPOSITORY / "benchmarks/gpu.py"))


def test_measurements_are_commands(tmp_path):
    flags = Namespace(ner="DIR", ner_peer="hf_ner.py", bert=None, text="FILE", lm_peer="hf_lm.py")
    flags.texts, flags.texts_peer = "DIR", "hf_cls.py"
    measurements = GPU["list_measurements"](flags)
    assert [each.name for each in measurements] == ["attention", "ner", "lm", "texts", "generate", "tests"]
    for each in measurements:
        check_command(["python", *each.arguments], tmp_path)
    without = GPU["list_measurements"](
        Namespace(ner="DIR", ner_peer=None, text=None, lm_peer=None, texts=None)
    )
    assert [each.name for each in without] == ["attention", "generate", "tests"]


def test_what_takes_too_long_is_stopped_with_its_children(tmp_path, capsys):
    child = f"import time; time.sleep(2); open({str(tmp_path / 'late')!r}, 'w')"
    measure = GPU["Measurement"]
    outcomes = GPU["run_measurements"](
        [
            measure("fast", ["-c", "print('0.5 ms')"], 60),
            measure("broken", ["-c", "import sys; sys.exit('no GPU')"], 60),
            measure(
                "slow", ["-c", f"import os; os.system({shlex.join([sys.executable, '-c', child])!r})"], 1
            ),
        ],
        60,
        tmp_path,
    )
    began = time.monotonic()
    outcomes += GPU["run_measurements"](
        [measure("last", ["-c", "import time; time.sleep(60)"], 60), measure("never", ["-c", ""], 60)],
        1.5,
        tmp_path,
    )
    assert time.monotonic() - began < 30
    results = {each.name: each.result for each in outcomes}
    assert results["fast"] == "ok" and outcomes[0].lines == ["0.5 ms"]
    assert results["broken"] == "exit 1" and outcomes[1].lines == ["no GPU"]
    assert results["slow"] == "stopped after 1 s" and results["never"] == "left out"
    assert results["last"].startswith("stopped after")
    GPU["print_table"](outcomes)
    assert "left out" in capsys.readouterr().out
    assert not (tmp_path / "late").exists()
