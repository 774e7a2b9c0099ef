"""Adapters that peft made answer records without any training, as torch does: alone, and several in one row."""

import json
import shutil
import warnings

import numpy as np
import peft
import pytest
import torch
import transformers
from PIL import Image
from safetensors.numpy import load_file, save_file

import jaxft
from jaxft.errors import UserError
from jaxft.inference.adapters.sources import AdapterChoice, open_sources, parse_adapters
from jaxft.inference.predict import predict_file

TEXTS = ("Anna Berg left Oslo .", "the company will open an office", "Peter left", "it moved to Oslo")
PARTS = {
    "TOKEN_CLS": "TokenClassification",
    "SEQ_CLS": "SequenceClassification",
    "QUESTION_ANS": "QuestionAnswering",
}

LABELS = {
    "problem_type": "multi_label_classification",
    "id2label": {str(number): name for number, name in enumerate("abcde")},
}


def make_adapter(base, folder, task: str, adapter: peft.PeftConfig, count: int, seed: int, family="Bert"):
    """Saves an adapter with random values as its users do, and returns the model."""
    adapter.task_type = task
    torch.manual_seed(seed)
    model_class = getattr(transformers, f"{family}For{PARTS[task]}")
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


def test_layers_that_a_head_shares_with_that_of_pretraining_may_be_the_bases(tiny_bert, tmp_path):
    """PEFT saves the classifier of a ModernBERT without the dense layer before it, which is the base's."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_bert)
    config = transformers.ModernBertConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64, pad_token_id=0, cls_token_id=2, sep_token_id=3, bos_token_id=2, eos_token_id=3,
    )  # fmt: skip
    torch.manual_seed(5)
    bases = {"masked": "ModernBertForMaskedLM", "bare": "ModernBertModel"}
    for name, model_class in bases.items():
        getattr(transformers, model_class)(config).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    adapter = peft.LoraConfig(r=2, target_modules=["Wqkv"])
    model = make_adapter(tmp_path / "masked", tmp_path / "adapter", "SEQ_CLS", adapter, 3, 6, "ModernBert")
    assert not any("head.dense" in name for name in load_file(tmp_path / "adapter/adapter_model.safetensors"))
    for text, answer in zip(
        TEXTS, jaxft.Adapters({"": tmp_path / "adapter"}).predict([{"text": t} for t in TEXTS]), strict=True
    ):
        with torch.inference_mode():
            scores = model(**tokenizer(text, return_tensors="pt")).logits[0].softmax(-1)
        assert answer["score"] == pytest.approx(scores.max().item(), abs=1e-5)
    bare = jaxft.Adapters({"": tmp_path / "adapter"}, model=str(tmp_path / "bare"))
    with pytest.raises(
        UserError, match=r"bare has no 'head.dense.weight', and the adapter brings none, .*=\('head', 'class"
    ):
        bare.predict([{"text": TEXTS[0]}])


def test_records_of_a_file_are_answered_in_their_places_or_have_their_errors(texts, tiny_bert, tmp_path):
    """One adapter gives one label, and another several, by thresholds."""
    root, models = texts
    shutil.copytree(root / "five", tmp_path / "several")
    thresholds = {"a": 0.1, "b": 0.9, "c": 0.3, "d": 0.5, "e": 0.7}
    (tmp_path / "several" / "config.json").write_text(json.dumps(LABELS | {"thresholds": thresholds}))
    names = ["several", "two", None, "other", "several", "two"]
    records = [{"text": TEXTS[i % len(TEXTS)], "adapter": name} for i, name in enumerate(names)]
    del records[2]["adapter"]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    folders = [f"several={tmp_path / 'several'}", f"two={root / 'two'}"]
    predict_file(
        None,
        str(tmp_path / "in.jsonl"),
        str(tmp_path / "out.jsonl"),
        adapters=parse_adapters(folders, None, "adapter"),
        on_error="record",
    )
    answers = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_bert)
    for name, record, answer in zip(names, records, answers, strict=True):
        assert answer | record == answer
        if name in (None, "other"):
            assert "expected the name of an adapter: 'several', 'two'" in answer["error"]
            continue
        model = models["five" if name == "several" else name]
        with torch.inference_mode():
            logits = model(**tokenizer(record["text"], return_tensors="pt")).logits[0]
        if name == "two":
            assert answer["predicted_label"] == ("bad", "good")[int(logits.argmax())]
            continue
        scores = dict(zip("abcde", torch.sigmoid(logits).tolist(), strict=True))
        expected = {label for label, score in scores.items() if score >= thresholds[label]}
        assert set(answer["predicted_labels"]) == expected
        assert answer["scores"] == {label: pytest.approx(scores[label], abs=1e-5) for label in expected}
    assert "has no 'adapter'" in answers[2]["error"] and "is 'other'" in answers[3]["error"]


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


def test_an_adapter_of_images_has_the_answers_of_peft(tmp_path):
    """PEFT has no type for such tasks: the base says it."""
    torch.manual_seed(0)
    base, folder = tmp_path / "vit", tmp_path / "adapter"
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    shape = transformers.ViTConfig(image_size=16, patch_size=8, num_labels=3, **sizes)
    transformers.ViTForImageClassification(shape).save_pretrained(base)
    processor = {"image_processor_type": "ViTImageProcessor", "size": {"height": 16, "width": 16}}
    (base / "preprocessor_config.json").write_text(json.dumps(processor))
    settings = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], modules_to_save=["classifier"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(transformers.ViTForImageClassification.from_pretrained(base), settings)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.5 * torch.randn_like(parameter))
        model.eval().save_pretrained(folder)
    assert json.loads((folder / "adapter_config.json").read_text())["task_type"] is None

    images = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    pixels = torch.tensor((images / 255 - 0.5) / 0.5, dtype=torch.float32).permute(0, 3, 1, 2)
    with torch.inference_mode():
        probabilities = model(pixel_values=pixels).logits.softmax(dim=-1).numpy()
        model.disable_adapter_layers()
        without = model(pixel_values=pixels).logits.softmax(dim=-1).numpy()
    assert np.abs(without.max(axis=-1) - probabilities.max(axis=-1)).min() > 1e-3
    (folder / "config.json").write_text(json.dumps({"id2label": {"0": "cat", "1": "dog", "2": "owl"}}))
    (tmp_path / "images").mkdir()
    for number, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / "images" / f"{number}.png")
    predict_file(
        None,
        str(tmp_path / "images"),
        str(tmp_path / "answers.jsonl"),
        adapters=parse_adapters([str(folder)], None, "adapter"),
    )
    answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert len(answers) == 4
    for answer, expected in zip(answers, probabilities, strict=True):
        assert answer["predicted_label"] == ("cat", "dog", "owl")[expected.argmax()]
        assert answer["score"] == pytest.approx(expected.max(), abs=1e-5)

    config = json.loads((base / "config.json").read_text()) | {"image_size": [16, 24]}
    (base / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        UserError, match="its base reads images of 16 x 24 pixels, and jaxft makes square ones"
    ):
        jaxft.Adapters(folder).predict(images[0])


def test_the_base_of_several_adapters_has_the_dtype_that_jaxft_wrote_or_else_that_of_the_first(
    texts, tmp_path
):
    """Next to an adapter that jaxft wrote, no dtype means float32."""
    root, _ = texts
    written = {"first": {"adapter.base_dtype": "int8"}, "second": {"data.max_length": 64}, "of_peft": None}
    for name, settings in written.items():
        shutil.copytree(root / "two", tmp_path / name)
        if settings is not None:
            (tmp_path / name / "jaxft.json").write_text(json.dumps(settings))
    choice = AdapterChoice({name: str(tmp_path / name) for name in written})
    sources = open_sources(None, choice, lambda line: None)
    assert [source.run.config.adapter.base_dtype for source in sources] == ["int8", "float32", "int8"]


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
    "list of labels": (
        lambda folder, base: (folder / "config.json").write_text('{"id2label": ["a", "b", "c", "d", "e"]}'),
        'config.json, id2label: found a list; expected the label of each output, {"0": NAME, "1": NAME',
    ),
    "labels from one": (
        lambda folder, base: (folder / "config.json").write_text(
            json.dumps({"id2label": {str(n + 1): str(n) for n in range(5)}})
        ),
        "id2label: found the keys 1, 2, 3, 4, 5; expected",
    ),
    "thresholds of other labels": (
        lambda folder, base: (folder / "config.json").write_text(
            json.dumps(LABELS | {"thresholds": {"a": 0.5, "b": 0.5, "c": 0.5, "d": 0.5, "old": 0.5}})
        ),
        "thresholds: found no number for the label 'e'; expected one for each label in id2label: rename them",
    ),
    "no pooler": (
        lambda folder, base: other_base(
            folder, base, lambda tensors: {n: t for n, t in tensors.items() if "pooler" not in n}
        ),
        "has no 'pooler.dense.weight', and the adapter brings none, so its answers are lost; train it with .*'pooler'",
    ),
    "another base": (
        lambda folder, base: other_base(folder, base, lambda tensors: tensors | {DOWN: tensors[DOWN] + 1}),
        "its base has another 'backbone/layers/mlp/down/kernel' than that of --adapter two=.*; expected adapters of",
    ),
    "another folder": (
        lambda folder, base: (folder / "adapter_config.json").unlink(),
        "has neither adapter_config.json nor model/labels.json; expected the folder of an adapter in PEFT's layout, or",
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


def test_a_run_is_named_by_its_folder():
    with pytest.raises(UserError, match="^--adapter a=run:/runs/x: .* without run:, as /runs/x$"):
        jaxft.Adapters({"a": "run:/runs/x"}).predict({"text": "Oslo", "adapter": "a"})
