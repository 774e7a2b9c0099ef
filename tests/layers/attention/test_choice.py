"""Tests which attention a run uses."""

import types

import jax
import pytest

from jaxft.errors import UserError
from jaxft.models.pretrained_model import resolve_model
from tests.training import test_step

BERT = {"model_type": "bert", "hidden_size": 128, "num_attention_heads": 2}
MPNET = BERT | {"model_type": "mpnet"}  # has a relative bias


def choose(platform: str, hf_config=BERT, **values) -> str:
    defaults = {"model.dropout": 0.0, "data.max_length": 512}
    config = test_step.config_with(**(defaults | {key.replace("__", "."): v for key, v in values.items()}))
    return resolve_model(config, hf_config, platform)[1].attention


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
