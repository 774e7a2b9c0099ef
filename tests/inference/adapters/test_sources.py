"""Adapters that peft made answer records without any training, as torch does: alone, and several in one row."""

import json
import shutil
import warnings

import numpy as np
import peft
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file

import jaxft
from jaxft.errors import UserError

TEXTS = ("Anna Berg left Oslo .", "the company will open an office", "Peter left", "it moved to Oslo")
PARTS = {
    "TOKEN_CLS": "TokenClassification",
    "SEQ_CLS": "SequenceClassification",
    "QUESTION_ANS": "QuestionAnswering",
}


def make_adapter(base, folder, task: str, adapter: peft.PeftConfig, count: int, seed: int):
    """Saves an adapter with random values as its users do, and returns the model."""
    adapter.task_type = task
    torch.manual_seed(seed)
    model_class = getattr(transformers, f"Bert{'For' + PARTS[task]}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(model_class.from_pretrained(base, num_labels=count), adapter).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.3 * torch.randn_like(parameter))
        model.save_pretrained(folder)
    return model


@pytest.fixture(scope="module")
def texts(tiny_bert, tmp_path_factory):
    """Adapters of text classifiers by name, as folders and as models: with two named labels, five, a number."""
    root = tmp_path_factory.mktemp("texts")
    models = {
        "two": make_adapter(tiny_bert, root / "two", "SEQ_CLS", peft.LoraConfig(r=3), 2, 0),
        "five": make_adapter(tiny_bert, root / "five", "SEQ_CLS", peft.IA3Config(), 5, 1),
        "number": make_adapter(
            tiny_bert,
            root / "number",
            "SEQ_CLS",
            peft.LoraConfig(r=2, use_dora=True, target_modules=["key"]),
            1,
            2,
        ),
    }
    (root / "two" / "config.json").write_text(json.dumps({"id2label": {"1": "good", "0": "bad"}}))
    return root, models


def test_records_get_the_answers_that_torch_gives_with_their_adapters(texts, tiny_bert):
    root, models = texts
    names = [*models, *models]
    records = [{"text": TEXTS[i % len(TEXTS)], "by": name} for i, name in enumerate(names)]
    mixed = jaxft.Adapters({name: root / name for name in models}, field="by")
    answers = mixed.predict(records)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_bert)
    for name, record, answer in zip(names, records, answers, strict=True):
        with torch.inference_mode():
            logits = models[name](**tokenizer(record["text"], return_tensors="pt")).logits[0].numpy()
        if name == "number":
            assert answer == record | {"predicted_value": pytest.approx(logits[0], abs=1e-5)}
            continue
        labels = ["bad", "good"] if name == "two" else [f"LABEL_{number}" for number in range(5)]
        probabilities = np.exp(logits) / np.exp(logits).sum()
        best = int(np.argmax(logits))
        expected = {"predicted_label": labels[best], "score": pytest.approx(probabilities[best], abs=1e-5)}
        assert answer == record | expected

    # An adapter without a name answers the records that name none; --model moves the base.
    default = jaxft.Adapters({"": root / "five", "two": root / "two"}, model=str(tiny_bert), field="by")
    five = {key: value for key, value in records[1].items() if key == "text"}
    assert default.predict(five)["predicted_label"] == answers[1]["predicted_label"]
    with pytest.raises(UserError, match="record 1: its 'by' is 'three'; expected the name of .*: 'two'$"):
        default.predict(five | {"by": "three"})
    with pytest.raises(
        UserError, match="has no 'by'; expected .*: 'two', 'five', 'number'; --run RUN, or an"
    ):
        mixed.predict(five)


def test_questions_have_the_answers_of_their_adapters_alone(tiny_bert, tmp_path):
    adapters = {"a": peft.LoraConfig(r=2), "b": peft.IA3Config()}
    for seed, (name, adapter) in enumerate(adapters.items()):
        make_adapter(tiny_bert, tmp_path / name, "QUESTION_ANS", adapter, 2, seed)
    question = {"question": "who left ?", "context": "Anna Berg left Oslo for the Red Cross ."}
    expected = [jaxft.Adapters(tmp_path / name).predict(question) for name in adapters]
    records = [question | {"adapter": name} for name in ("b", "a", "b")]
    for answer, number in zip(
        jaxft.Adapters({name: tmp_path / name for name in adapters}).predict(records), (1, 0, 1), strict=True
    ):
        alone = expected[number]
        assert {key: answer[key] for key in ("start", "end", "predicted_answer")} == {
            key: alone[key] for key in ("start", "end", "predicted_answer")
        }
        assert answer["score"] == pytest.approx(alone["score"], abs=1e-5)
    assert expected[0]["score"] != pytest.approx(expected[1]["score"], abs=1e-3)


def change_config(folder, **changes) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_tensors(folder, change) -> None:
    path = folder / "adapter_model.safetensors"
    save_file(change(load_file(path)), path)


def other_base(folder, base, change):
    """Names a copy of the base, with other tensors, as that of an adapter."""
    copy = folder.parent / "base"
    shutil.copytree(base, copy)
    tensors = change(load_file(copy / "model.safetensors"))
    save_file(tensors, copy / "model.safetensors")
    change_config(folder, base_model_name_or_path=str(copy))


DOWN = "encoder.layer.1.output.dense.weight"
REFUSED = {
    "no base": (
        lambda folder, base: change_config(folder, base_model_name_or_path=None),
        "names no base model .* name it by --model",
    ),
    "no task": (
        lambda folder, base: change_config(folder, task_type=None),
        "task_type is None; predictions are for TOKEN_CLS, SEQ_CLS, QUESTION_ANS",
    ),
    "no head": (
        lambda folder, base: change_tensors(
            folder, lambda tensors: {n: t for n, t in tensors.items() if "classifier" not in n}
        ),
        "has no tensor 'classifier.weight' of the head, so its answers are lost; train it with .* .classifier.",
    ),
    "labels": (
        lambda folder, base: (folder / "config.json").write_text('{"id2label": {"0": "a", "1": "b"}}'),
        r"names 2 labels \(id2label\), and the head of the adapter has 5 outputs",
    ),
    "no pooler": (
        lambda folder, base: other_base(
            folder, base, lambda tensors: {n: t for n, t in tensors.items() if "pooler" not in n}
        ),
        "has no pooler, and the adapter brings none, so its answers are lost",
    ),
    "another base": (
        lambda folder, base: other_base(folder, base, lambda tensors: tensors | {DOWN: tensors[DOWN] + 1}),
        "its base has another 'backbone/layers/mlp/down/kernel' than that of --adapter two=.*; expected adapters of",
    ),
    "not a folder": (
        lambda folder, base: shutil.rmtree(folder),
        "no such folder, and it cannot be a hub id",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_adapters_that_cannot_answer_are_refused(name, texts, tiny_bert, tmp_path):
    root, _ = texts
    folder = tmp_path / "five"
    shutil.copytree(root / "five", folder)
    change, message = REFUSED[name]
    change(folder, tiny_bert)
    with pytest.raises(UserError, match=f"^--adapter five={folder}: .*{message}"):
        jaxft.Adapters({"two": root / "two", "five": folder}).predict({"text": "Oslo", "adapter": "five"})
