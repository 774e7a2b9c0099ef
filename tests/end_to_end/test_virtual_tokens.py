"""Runs with prefixes and prompts: resumed to the bit, evaluated, used by predict and generate, and read by peft."""

import json

import numpy as np
import peft
import pytest
import torch
from safetensors.numpy import load_file
from transformers import BertForTokenClassification, GPT2LMHeadModel

from jaxft.errors import Preempted, UserError
from jaxft.export.writer import export_run
from jaxft.generation.options import GenerationOptions
from jaxft.inference.evaluate import evaluate_run
from jaxft.inference.model import open_model
from jaxft.inference.predict import predict_file
from jaxft.inference.writer import make_run_writer
from jaxft.parallel.mesh import make_mesh
from jaxft.training import loop
from jaxft.training.network import initial_parameters
from jaxft.training.prepare import prepare_network, prepare_task
from jaxft.training.run_folder.frozen_base import open_base_model
from jaxft.training.run_folder.workdir import open_run
from jaxft.training.settings import load_settings, settings_from_config
from tests.end_to_end.test_train_settings import weights

# With averages of weights, and, in `tiny_flags`, microbatches.
SETTINGS = {
    "optim.ema": 0.9,
    "loss.r_drop": 0.5,
    "model.unroll": "no",  # compiled sooner
    "train.steps": 8,
    "eval.every_steps": 4,
    "checkpoint.every_steps": 4,
    "eval.bootstrap": 0,
}
METHODS = {
    "prefix": {"num_virtual_tokens": 5, "prefix_projection": True, "encoder_hidden_size": 7},
    "prompt": {
        "num_virtual_tokens": 5,
        "prompt_tuning_init": "TEXT",
        "prompt_tuning_init_text": "which words are names",
    },
}


def make_config(tiny_flags, method: str, values=SETTINGS):
    settings = {f"adapter.{name}": value for name, value in METHODS[method].items()}
    values = values | {"adapter.method": method, "data.max_length": 48} | settings
    return load_settings(tiny_flags[1], [*tiny_flags[2:], *(f"--config.{k}={v}" for k, v in values.items())])


@pytest.mark.sweep
@pytest.mark.parametrize("method", METHODS)
def test_a_run_is_resumed_to_the_bit_and_is_the_same_in_peft(method, tiny_flags, corpus, tmp_path):
    config, run = make_config(tiny_flags, method), tmp_path / "whole"
    summary = loop.train(config, run)
    assert summary["late_compiles"] == 0
    asked = iter(range(100))
    with pytest.raises(Preempted):
        loop.train(config, tmp_path / "cut", should_stop=lambda: next(asked) == 6)
    loop.train(config, tmp_path / "cut")
    uncut, cut = weights(run), weights(tmp_path / "cut")
    assert all("/adapter/" in name or name.startswith("head/") for name in uncut)
    for name, value in uncut.items():
        np.testing.assert_array_equal(value, cut[name], err_msg=name)

    measured = evaluate_run(run, str(corpus["test"]), tmp_path / "again")
    assert measured["loss"] == pytest.approx(summary["test"]["loss"], rel=1e-6)
    predict_file(run, str(corpus["test"]), str(tmp_path / "answers.conll"))
    assert len((tmp_path / "answers.conll").read_text().splitlines()) > 100

    with pytest.raises(UserError, match="a prefix or a prompt cannot be merged .*--format peft"):
        export_run(run, tmp_path / "merged")
    folder = tmp_path / "adapter"
    export_run(run, folder, format="peft", verify=True)
    assert load_file(folder / "adapter_model.safetensors").keys() == {
        "prompt_embeddings",
        "base_model.classifier.weight",
        "base_model.classifier.bias",
    }
    assert json.loads((folder / "adapter_config.json").read_text())["num_virtual_tokens"] == 5
    flags = [f"--config.adapter.init_from={folder}", "--config.data.max_length=48"]
    restarted = load_settings(tiny_flags[1], [*tiny_flags[2:], *flags])
    assert (restarted.adapter.method, restarted.adapter.num_virtual_tokens) == (method, 5)
    model = open_model(open_run(run), print, dtype="float32")
    net = prepare_network(model.task, restarted, model.run.checkpoint.hf_config, model.net.mesh)
    start, _ = initial_parameters(net, restarted, open_base_model(restarted, print))
    vectors = load_file(folder / "adapter_model.safetensors")["prompt_embeddings"]
    assert any(value.shape == vectors.shape and (value == vectors).all() for value in start.values())


def test_a_prompt_begins_with_a_text_as_pefts_does(tiny_flags, tiny_bert):
    config = make_config(tiny_flags, "prompt")
    base = open_base_model(config, print)
    theirs = peft.PromptTuningConfig(
        task_type="TOKEN_CLS", tokenizer_name_or_path=str(tiny_bert), **METHODS["prompt"]
    )
    model = peft.get_peft_model(BertForTokenClassification.from_pretrained(tiny_bert), theirs)
    expected = model.prompt_encoder["default"].embedding.weight.detach().numpy()
    task = prepare_task(config, base.hf_config, ["O", "B-PER"])
    net = prepare_network(task, config, base.hf_config, make_mesh(config))
    start, _ = initial_parameters(net, config, base)
    np.testing.assert_array_equal(start["backbone/embeddings/word/adapter/embedding"], expected)


@pytest.mark.sweep
@pytest.mark.parametrize("method", [*METHODS, "lora"])
def test_a_language_model_writes_with_it_and_is_the_same_in_peft(method, tiny_gpt2, tmp_path):
    (tmp_path / "train.jsonl").write_text(
        "".join(json.dumps({"text": f"the cat sat on mat {number}"}) + "\n" for number in range(40))
    )
    values = {
        "task": "causal_lm",
        "model.checkpoint": str(tiny_gpt2),
        "data.train": str(tmp_path / "train.jsonl"),
        "data.cache_dir": "off",
        "data.max_length": 24,
        "batch.rows": 4,
        "train.steps": 4,
        "optim.lr": 0.01,
        "eval.bootstrap": 0,
        "log.tensorboard": False,
        "adapter.method": method,
        **{f"adapter.{name}": value for name, value in METHODS.get(method, {}).items()},
    }
    loop.train(settings_from_config(values), tmp_path / "run")
    export_run(tmp_path / "run", tmp_path / "adapter", format="peft", verify=True)
    writer = make_run_writer(tmp_path / "run", print)
    [[text]] = writer.generate(["the cat"], GenerationOptions(max_new_tokens=8))
    assert text.text == peft_text(tmp_path / "adapter", tiny_gpt2, writer, 8)


def peft_text(folder, base, writer, count: int) -> str:
    """Returns the text that peft's model writes after "the cat", token by token, without a cache."""
    model = peft.PeftModel.from_pretrained(GPT2LMHeadModel.from_pretrained(base), folder).eval()
    first = ids = writer._start + writer.tokenizer("the cat")["input_ids"]
    for _ in range(count):
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids))).logits
        ids = [*ids, int(logits[0, -1].argmax())]
    return writer.tokenizer.decode(ids[len(first) :], skip_special_tokens=True)
