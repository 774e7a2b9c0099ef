"""Each task trains adapters: what it saves, that it is measured and answers as it was trained, and what torch says."""

import json

import numpy as np
import pytest
import transformers

import jaxft
from jaxft.adapters.plan import is_adapter
from jaxft.export.writer import export_run
from tests.end_to_end.test_train_settings import weights

PLACES = ("oslo", "rome", "berlin", "red cross")
SHORT = {
    "adapter.method": "lora",
    "data.cache_dir": "off",
    "data.max_length": 32,
    "batch.rows": 4,
    "batch.accumulate": 2,
    "model.unroll": "no",  # quick to compile
    "train.steps": 4,
    "optim.lr": 0.01,
    "eval.bootstrap": 0,
    "log.tensorboard": False,
}
TEXTS = [f"anna left {PLACES[number % 4]} and moved to {PLACES[number % 3]}" for number in range(24)]
RECORDS = {
    "sequence_classification": [{"text": text, "label": text[10:14]} for text in TEXTS],
    "question_answering": [
        {"id": str(number), "question": "what was left ?", "context": text}
        | {"answers": [{"text": PLACES[number % 4], "answer_start": 10}]}
        for number, text in enumerate(TEXTS)
    ],
    "masked_lm": [{"text": text} for text in TEXTS],
    "multi_task": [
        {"text": text, "place": text[10:14], "spans": [{"start": 0, "end": 4, "label": "person"}]}
        for text in TEXTS
    ],
}
JOINT_TASKS = (
    ("places", (("task", "sequence_classification"), ("data.label", "place"))),
    ("people", (("task", "token_classification"),)),
)
QUERIES = {  # whose answers have the key
    "sequence_classification": ({"text": TEXTS[0]}, "predicted_label"),
    "question_answering": ({"question": "what was left ?", "context": TEXTS[0]}, "predicted_answer"),
    "masked_lm": ({"text": "anna left [MASK]"}, "predicted_words"),
    "multi_task": ({"text": TEXTS[0]}, "places"),
}


def check_run(run: jaxft.Run, dev) -> None:
    """Asserts that the run has no late compiles, saved adapters and heads alone, and has its loss again."""
    assert run.summary["late_compiles"] == 0
    names = weights(run.folder).keys()
    is_bitfit = run.config.adapter.method == "bitfit"
    of_backbone = [name for name in names if name.startswith("backbone/")]
    assert all(name.endswith("/bias") if is_bitfit else is_adapter(name) for name in of_backbone)
    assert 0 < len(of_backbone) < len(names)  # and heads
    measured = run.evaluate(dev)
    assert measured["loss"] == pytest.approx(run.summary["dev"]["loss"], rel=1e-6)


@pytest.mark.sweep
@pytest.mark.parametrize("method", ["lora", "prompt"])
@pytest.mark.parametrize("task", RECORDS)
def test_each_task_of_texts_trains_adapters(task, method, tiny_bert, tmp_path):
    values = SHORT | {"task": task, "model.checkpoint": str(tiny_bert), "adapter.method": method}
    if method == "prompt":
        values["adapter.num_virtual_tokens"] = 5
    if task == "multi_task":
        values["tasks"] = JOINT_TASKS
    train, dev = RECORDS[task][:16], RECORDS[task][16:]
    run = jaxft.train(values, tmp_path / "run", train=train, dev=dev)
    check_run(run, dev)
    record, key = QUERIES[task]
    assert key in run.predict(record)
    if task == "sequence_classification" or (task, method) == ("question_answering", "lora"):
        export_run(run.folder, tmp_path / "adapter", format="peft", verify=True)


SMALL_VIT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
IMAGE_MODELS = {
    "lora": lambda: transformers.ViTModel(transformers.ViTConfig(image_size=16, patch_size=8, **SMALL_VIT)),
    "bitfit": lambda: transformers.ResNetModel(
        transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    ),
}


@pytest.mark.sweep
@pytest.mark.parametrize("method", IMAGE_MODELS)
def test_images_are_classified_with_adapters(method, tmp_path):
    """Biases alone are trained of a ResNet, which has no linear layers; its running statistics stay as they are."""
    IMAGE_MODELS[method]().save_pretrained(tmp_path / "base")
    processor = {"image_processor_type": "ViTImageProcessor", "size": {"height": 16, "width": 16}}
    (tmp_path / "base" / "preprocessor_config.json").write_text(json.dumps(processor))
    values = {key: value for key, value in SHORT.items() if key not in ("data.max_length", "data.cache_dir")}
    values |= {"task": "image_classification", "model.checkpoint": str(tmp_path / "base")}
    values |= {"adapter.method": method, "data.image_size": 16, "data.workers": 0}
    images = np.random.default_rng(0).integers(0, 256, (24, 16, 16, 3), dtype=np.uint8)
    records = [{"image": image, "label": "ab"[number % 2]} for number, image in enumerate(images)]
    run = jaxft.train(values, tmp_path / "run", train=records[:16], dev=records[16:])
    check_run(run, records[16:])
    [answer] = run.predict(records[:1])
    assert answer["predicted_label"] in ("a", "b")
    export_run(run.folder, tmp_path / "model", verify=True)
    if method == "lora":
        export_run(run.folder, tmp_path / "adapter", format="peft", verify=True)
