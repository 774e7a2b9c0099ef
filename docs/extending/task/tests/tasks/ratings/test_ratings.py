"""A run learns ratings, answers texts, and is exported; a rating that is none is refused with its place."""

import json
import random

import pytest

from jaxft.errors import UserError
from jaxft.export.writer import export_run
from jaxft.inference.predict import predict_file
from jaxft.io.files import read_json
from jaxft.tasks.ratings.data import RatedTexts
from jaxft.training.loop import train
from jaxft.training.settings import settings_from_config

WORDS = "abcde"  # a text says its rating by a letter, between others


def write_texts(path, count, seed):
    rng = random.Random(seed)
    ratings = [rng.randint(1, 5) for _ in range(count)]
    lines = [
        json.dumps(
            {"text": " ".join([*rng.choices("uvwxyz", k=rng.randint(0, 4)), WORDS[r - 1]]), "rating": r}
        )
        for r in ratings
    ]
    path.write_text("\n".join(lines) + "\n")
    return ratings


def test_a_run_learns_ratings_answers_and_is_exported(tiny_bert, tmp_path):
    write_texts(tmp_path / "train.jsonl", 200, seed=0)
    dev = write_texts(tmp_path / "dev.jsonl", 40, seed=1)
    settings = {
        "task": "ratings",
        "model.checkpoint": str(tiny_bert),
        "data.train": str(tmp_path / "train.jsonl"),
        "data.dev": str(tmp_path / "dev.jsonl"),
        "data.max_length": 16,
        "data.cache_dir": "off",
        "batch.examples": 16,
        "train.steps": 60,
        "optim.lr": 0.01,
        "eval.every_steps": 60,
        "log.tensorboard": False,
    }
    train(settings_from_config(settings), tmp_path / "run")
    metrics = read_json(tmp_path / "run/eval/dev.json")["metrics"]
    assert metrics["mae"] < 0.1 and metrics["loss"] < 0.15  # without learning: about 1.2 and 0.6
    predict_file(tmp_path / "run", str(tmp_path / "dev.jsonl"), str(tmp_path / "answers.jsonl"))
    answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert sum(answer["predicted_rating"] != rating for answer, rating in zip(answers, dev, strict=True)) <= 4
    export_run(tmp_path / "run", tmp_path / "exported", verify=True)
    assert "rates texts from 1 to 5" in (tmp_path / "exported/README.md").read_text()


def test_a_rating_that_is_none_is_refused(tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"text": "a", "rating": 5}\n{"text": "b", "rating": 6}\n')
    data = RatedTexts(settings_from_config({"task": "ratings"}))
    with pytest.raises(UserError, match=r"bad.jsonl:2: rating is 6; expected a whole number from 1 to 5"):
        data.read("train", str(tmp_path / "bad.jsonl"), print)
