"""Exports: torch loads them, says the same as we do, and the card tells what the run recorded."""

import dataclasses
import importlib.util
import itertools
import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file

from jaxft.config.settings import replace
from jaxft.data.sources.tagged_sentences.sentences import read_sentences
from jaxft.errors import UserError
from jaxft.export import writer
from jaxft.export.card import CardFields, _public, write_card
from jaxft.inference.predict import predict_file
from jaxft.training.loop import train
from jaxft.training.run_folder.workdir import BASE_CARD, open_run
from jaxft.training.settings import load_settings


@pytest.fixture(scope="module")
def exported(finished_run, command, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exports") / "new" / "model"
    done = command("export", "--run", finished_run, "--output", folder, "--verify", cold=True)
    assert done.returncode == 0, done.stderr
    assert "largest difference of logits between jax and torch: " in done.stdout
    return folder


def test_the_folder_is_whole(exported, finished_run):
    from transformers import AutoModelForTokenClassification

    assert {path.name for path in exported.iterdir()} >= {
        "README.md",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert [path.name for path in exported.parent.iterdir()] == ["model"]
    model, report = AutoModelForTokenClassification.from_pretrained(exported, output_loading_info=True)
    assert not any(report.values())
    labels = json.loads((finished_run / "model/labels.json").read_text())
    assert model.config.id2label == dict(enumerate(labels))
    assert model.config.label2id == {label: index for index, label in enumerate(labels)}


def test_the_tokenizer_gives_the_same_ids(exported, finished_run, corpus):
    from transformers import AutoTokenizer

    ours, theirs = (
        open_run(finished_run).checkpoint.tokenizer,
        AutoTokenizer.from_pretrained(exported),
    )
    sentences = [s.words for s in read_sentences(corpus["train"])] + [
        ["😀", "\u200b", "O'Brien", "naïve", "x" * 300]
    ]
    encoded = [tokenizer(sentences, is_split_into_words=True) for tokenizer in (ours, theirs)]
    assert encoded[0]["input_ids"] == encoded[1]["input_ids"]
    assert theirs.model_max_length == ours.model_max_length


def test_the_pipeline_of_transformers_finds_what_predict_finds(exported, finished_run, corpus, tmp_path):
    """On texts where both cut the same words."""
    from transformers import pipeline

    tag = pipeline("token-classification", model=str(exported), aggregation_strategy="first", device="cpu")
    sentences = itertools.islice(read_sentences(corpus["train"]), 80)
    texts = [" ".join(w for w in s.words if w.isalnum()) for s in sentences if len(s.words) < 40]
    (tmp_path / "in.txt").write_text("\n".join(texts))
    flags = {"run": finished_run, "input": str(tmp_path / "in.txt"), "output": str(tmp_path / "out.jsonl")}
    predict_file(flags["run"], flags["input"], flags["output"])
    ours = [json.loads(line)["entities"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    theirs = tag(texts)
    assert sum(map(len, ours)) > 20
    for our, their in zip(ours, theirs, strict=True):
        assert [(e["start"], e["end"], e["label"]) for e in our] == [
            (e["start"], e["end"], e["entity_group"]) for e in their
        ]
        assert [e["score"] for e in our] == pytest.approx([e["score"] for e in their], abs=1e-4)


@pytest.mark.sweep
def test_the_code_of_the_card_tags_the_end_of_a_long_text(exported, corpus):
    """The pipeline alone drops what stands after the model's positions."""
    from transformers import AutoTokenizer

    code = (exported / "README.md").read_text().split("```python\n")[1].split("```")[0]
    names = {}
    exec(code.replace("PATH_OF_THIS_FOLDER", str(exported)), names)
    words = [w for s in read_sentences(corpus["train"]) for w in s.words if w.isalnum()]
    text = " ".join(words * 20)
    positions = AutoTokenizer.from_pretrained(exported).model_max_length
    assert len(words) * 20 > 3 * positions
    ends = [entity["end"] for entity in names["tag"](text)]
    assert max(ends) > 0.9 * len(text)


def test_the_card_reads_as_one_and_tells_the_runs_scores(exported, finished_run, corpus):
    from huggingface_hub import ModelCard

    card = ModelCard.load(exported / "README.md")
    assert card.data.library_name == "transformers" and card.data.pipeline_tag == "token-classification"
    summary = json.loads((finished_run / "summary.json").read_text())
    scores = {(r.dataset_split, r.metric_type): r.metric_value for r in card.data.eval_results}
    for name, metric in itertools.product(("dev", "test"), ("f1", "precision", "recall")):
        assert scores[name, metric] == summary[name][f"entity_{metric}"]
    low, high = json.loads((finished_run / "eval/test.json").read_text())["intervals"]["entity_f1"]
    f1 = f"{100 * summary['test']['entity_f1']:.2f} ({100 * low:.1f}–{100 * high:.1f})"
    assert f1 in card.text
    assert "torch's logits differed from jaxft's by" in card.text
    assert "optim.lr = 0.01" in card.text and "jax 0." in card.text
    assert "`train.conll`" in card.text
    assert str(finished_run.parent) not in card.content and corpus["train"] not in card.content


def test_the_card_has_a_licence_and_languages_only_where_somebody_named_them(
    exported, finished_run, tmp_path
):
    """Those of the base checkpoint's card, or those of the export; never invented."""
    from huggingface_hub import ModelCard

    card = ModelCard.load(exported / "README.md")
    assert (card.data.license, card.data.language) == (None, None)
    assert "License: unknown" in card.text and card.data.tags == ["token-classification", "jaxft"]
    run = open_run(finished_run)
    folder = tmp_path / "run"
    shutil.copytree(finished_run, folder, ignore=shutil.ignore_patterns("best", "checkpoints"))
    base = {"license": "other", "license_name": "my-licence", "language": ["de", "no"]}
    (folder / "model" / BASE_CARD).write_text(json.dumps(base))
    run = dataclasses.replace(run, workdir=folder)
    data = ModelCard(write_card(run, 7, None)).data.to_dict()
    assert {key: data[key] for key in base} == base
    fields = CardFields("apache-2.0", ("en",), ("legal", "jaxft"))
    card = ModelCard(write_card(run, 7, None, fields))
    assert (card.data.license, card.data.language) == ("apache-2.0", ["en"])
    assert card.data.tags == ["token-classification", "jaxft", "legal"]
    assert "license_name" not in card.data.to_dict() and "License: `apache-2.0`." in card.text
    run = dataclasses.replace(run, config=replace(run.config, {"model.init": "scratch"}))
    assert "License: unknown" in write_card(run, 7, None)  # new weights are not those of the base checkpoint
    for wrong in ({"license": "Apache 2.0"}, {"language": ("English",)}):
        with pytest.raises(UserError, match="such as"):
            CardFields(**wrong)


def test_what_was_not_trained_is_bit_identical(tiny_flags, tiny_bert, tmp_path):
    """Import, a frozen body through two steps, a checkpoint, and export: every tensor as it was."""
    short = {"optim.freeze": "('^backbone/',)", "train.steps": 2, "eval.every_steps": 2}
    short |= {"checkpoint.best_only": True}
    quick = {"model.unroll": "no", "batch.accumulate": 1}  # to compile
    flags = [f"--config.{key}={value}" for key, value in (short | quick).items()]
    train(load_settings(tiny_flags[1], tiny_flags[2:] + flags), tmp_path / "run")
    assert not (tmp_path / "run/checkpoints").exists()
    writer.export_run(tmp_path / "run", tmp_path / "out")
    before, after = load_file(tiny_bert / "model.safetensors"), load_file(tmp_path / "out/model.safetensors")
    assert after.keys() == {f"bert.{n}" for n in before if not n.startswith("pooler.")} | {
        "classifier.weight",
        "classifier.bias",
    }
    for name in [name for name in after if name.startswith("bert.")]:
        np.testing.assert_array_equal(after[name], before[name.removeprefix("bert.")], strict=True)
    assert np.abs(after["classifier.bias"]).max() > 0  # the head was trained
    config = json.loads((tmp_path / "out/config.json").read_text())
    original = json.loads((tiny_bert / "config.json").read_text())
    assert config | {"architectures": original["architectures"]} == original | {
        name: config[name] for name in ("id2label", "label2id")
    }


def test_a_difference_is_told_and_nothing_is_left(finished_run, tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "TOLERANCE", 0.0)
    with pytest.raises(UserError, match=r"torch's logits differ from ours by \d.*out was not written"):
        writer.export_run(finished_run, tmp_path / "out", verify=True)
    assert list(tmp_path.iterdir()) == []


def test_without_torch(finished_run, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="--verify needs torch, which is not installed: pip install torch"):
        writer.export_run(finished_run, tmp_path / "out", verify=True)
    with pytest.raises(
        UserError, match="needs torch and peft, which are not installed: pip install torch peft, or"
    ):
        writer.export_run(finished_run, tmp_path / "out", format="peft", verify=True)


def test_a_format_that_is_none_is_refused(finished_run, tmp_path):
    with pytest.raises(UserError, match="format='PEFT': expected 'transformers' or 'peft'"):
        writer.export_run(finished_run, tmp_path / "out", format="PEFT")


def test_a_folder_in_use_is_refused(finished_run, tmp_path):
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(UserError, match="exists already and is not an empty folder"):
        writer.export_run(finished_run, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


@pytest.mark.parametrize(
    ("source", "public"),
    [
        ("gs://bucket/data/train.conll", "train.conll"),
        ("10% of s3://bucket/a/x.jsonl?fold=1, seed 3", "10% of x.jsonl?fold=1, seed 3"),
        ("a=gs://bucket/x.jsonl;b=/home/me/y.jsonl", "a=x.jsonl;b=y.jsonl"),
        ("demo:ner/train", "demo:ner/train"),
        ("hub:conll2003@abc/train", "hub:conll2003@abc/train"),
        ("run:/home/me/runs/mlm", "run:mlm"),
        ("run:gs://bucket/runs/mlm", "run:mlm"),
    ],
)
def test_the_card_tells_no_folders_and_buckets(source, public):
    assert _public(source) == public
