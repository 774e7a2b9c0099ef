"""The benchmark of images runs both sides on the same files and weights, and tells their ratio and losses."""

import json

import pytest

from tests.conftest import REPOSITORY


@pytest.mark.sweep
def test_both_sides_train_on_the_same_images(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    import images

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    for name, value in {"VIT_TINY": sizes, "SIZE": 32, "SIDE": 40, "IMAGES": 4}.items():
        monkeypatch.setattr(images, name, value)
    monkeypatch.setattr("sys.argv", ["images.py", "--models", "vit-tiny", "--steps", "2", "--repeats", "1"])
    images.main()
    *runs, last = map(json.loads, capsys.readouterr().out.splitlines())
    assert [run["side"] for run in runs] == ["jaxft", "peer"]
    assert all(run["images_per_s"] > 0 and len(run["losses"]) == 2 for run in runs)
    assert last["result"] == "speed" and last["ratios"] == [last["median_ratio"]]
    assert last["losses"].keys() == last["accuracy"].keys() == {"jaxft", "peer"}


def test_losses_are_shown_by_tenths(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    from images import average_tenths

    assert average_tenths([1.0, 3.0]) == [1.0, 3.0]
    assert average_tenths([float(n) for n in range(20)]) == [n * 2 + 0.5 for n in range(10)]
