"""Tests which attention a run uses."""

import types

import jax
import pytest

from jaxft.errors import UserError
from jaxft.layers.attention.interface import Feature
from jaxft.layers.runtime import Runtime
from jaxft.models.bert.config import BertConfig
from jaxft.models.pretrained_model import resolve_model
from tests.training import test_step

BERT = {"model_type": "bert", "hidden_size": 128, "num_attention_heads": 2}
MPNET = BERT | {"model_type": "mpnet"}  # has a relative bias


def resolve(platform: str, hf_config=BERT, **values) -> Runtime:
    defaults = {"model.dropout": 0.0, "data.max_length": 512}
    config = test_step.config_with(**(defaults | {key.replace("__", "."): v for key, v in values.items()}))
    return resolve_model(config, hf_config, platform)[1]


def choose(platform: str, hf_config=BERT, **values) -> str:
    return resolve(platform, hf_config, **values).attention


@pytest.fixture
def gpu(monkeypatch):
    """Returns a function that makes this machine's first device a GPU of a compute capability."""
    return lambda capability: monkeypatch.setattr(
        jax, "devices", lambda: [types.SimpleNamespace(compute_capability=capability)]
    )


def test_auto_takes_a_kernel_where_it_can(gpu):
    gpu("8.0")
    assert choose("cpu") == "dense"
    assert choose("tpu") == "splash"
    assert choose("gpu") == "flash"
    assert choose("gpu", data__max_length=64, model__dropout=None) == "flash"  # BERT's own rate
    assert choose("tpu", data__max_length=256) == "dense"
    assert choose("tpu", model__dropout=None) == "dense"
    for platform in ("tpu", "gpu"):
        assert choose(platform, model__attention="dense") == "dense"
    assert choose("gpu", data__max_length=100) == "dense"
    assert choose("tpu", data__max_length=1000) == "dense"
    assert choose("tpu", model__attention="splash", data__max_length=128) == "splash"
    assert choose("gpu", model__dtype="float32") == "dense"
    assert choose("gpu", MPNET) == choose("tpu", MPNET) == "dense"
    for capability in ("7.5", "gfx942"):
        gpu(capability)
        assert choose("gpu") == "dense"


def test_long_rows_and_windows_take_chunks_where_no_kernel_fits(gpu, monkeypatch):
    gpu("8.0")
    long = BERT | {"max_position_embeddings": 4096}
    assert choose("cpu", long, data__max_length=1000) == "dense"
    assert choose("cpu", long, data__max_length=1024) == "chunked"
    assert choose("cpu", long, data__max_length=1024, model__attention="dense") == "dense"
    assert choose("gpu", long, data__max_length=1024, model__dtype="float32") == "dense"
    float32 = resolve("gpu", long, data__max_length=2048, model__dtype="float32")
    assert float32.attention_line == "chunked (flash computes in bfloat16, not float32)"
    assert choose("cpu", model__attention="chunked", data__max_length=64) == "chunked"
    monkeypatch.setattr(BertConfig, "attention_features", frozenset({Feature.WINDOW}))
    assert resolve("cpu", long, data__max_length=128).attention_line == "dense"
    assert resolve("cpu", long, data__max_length=256).attention_line == "dense, with windows chunked"
    assert resolve("cpu", long, data__max_length=1024).attention_line == "chunked"
    assert resolve("gpu").attention_line == "flash" and resolve("tpu").attention_line == "splash"
    short = resolve("tpu", data__max_length=256).attention_line
    assert short == "dense (splash is for rows of 512 slots or more, not 256)"


@pytest.mark.parametrize(
    ("platform", "values", "message"),
    [
        ("cpu", {}, "'splash' cannot run on this cpu; 'dense' computes the same"),
        ("tpu", {"model__attention": "flash"}, "'flash' cannot run on this tpu"),
        (
            "tpu",
            {"model__dropout": 0.1},
            "has no dropout of .* here 0.1; set config.model.dropout=0.0; 'dense'",
        ),
        ("tpu", {"data__max_length": 500}, "'splash' takes rows of a multiple of 128, not 500; 'dense'"),
        (
            "tpu",
            {"hf_config": MPNET},
            "'splash' adds no bias to scores, which this model needs; 'dense' computes",
        ),
    ],
)
def test_a_kernel_that_cannot_be_had_is_refused(platform, values, message):
    with pytest.raises(UserError, match=message):
        choose(platform, **({"model__attention": "splash"} | values))
