"""The verb `lengths` tells the lengths that training sees."""

import json

import pytest

from jaxft.cli.lengths import lengths


def test_lengths_are_those_of_windows(tiny_bert, tmp_path, capsys):
    words = "a b c d e f g h i j".split()  # a token each
    texts = [" ".join(words[:count]) for count in (1, 2, 2, 10)]
    lines = [json.dumps({"text": text, "label": str(index % 2)}) for index, text in enumerate(texts)]
    (tmp_path / "train.jsonl").write_text("\n".join(lines))
    (tmp_path / "run.json").write_text(json.dumps({"task": "sequence_classification"}))
    settings = {"model.checkpoint": tiny_bert, "data.train": tmp_path / "train.jsonl", "data.max_length": 8}
    settings |= {"data.dev": settings["data.train"], "data.cache_dir": "off"}
    flags = [f"--config.{key}={value}" for key, value in settings.items()]
    lengths(["--config", str(tmp_path / "run.json"), *flags])
    title, *rows = capsys.readouterr().out.splitlines()
    assert title.endswith("4 windows, cut at 8 tokens")
    assert [int(row.split()[-2]) for row in rows] == [4, 8, 8, 8]  # with [CLS] and [SEP]


def test_a_wrong_setting_is_an_error_of_one_line(capsys):
    with pytest.raises(SystemExit) as exit:
        lengths(["--config", "ner", "--config.data.max_lenght=64"])
    assert exit.value.code == 2 and "max_length" in capsys.readouterr().err
