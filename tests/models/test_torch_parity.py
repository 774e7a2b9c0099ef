"""Each family is torch, in logits and gradients of packed texts, for each kind of head, and comes back bit for bit."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxft.layers.heads.kinds import HeadKind
from jaxft.models.registry import FAMILIES
from tests.models import torch_parity

# The heads that have a class of transformers with logits.
HEADS = [
    (name, kind) for name, family in FAMILIES.items() for kind in family.heads if kind is not HeadKind.SHARED
]
# XLM-R and CamemBERT are RoBERTa's network under other names.
NETWORKS = [name for name in FAMILIES if name not in ("xlm-roberta", "camembert")]
QUICK = [(name, kind) for name, kind in HEADS if name in NETWORKS]


@pytest.mark.parametrize(("name", "kind"), QUICK, ids=str)
def test_logits_and_gradients_are_torchs(name, kind):
    config = torch_parity.example_shape(name, seed=list(HeadKind).index(kind))
    torch_parity.assert_is_torchs(config, kind, seed=1, dtype="float64")


@pytest.mark.parametrize(("name", "kind"), HEADS, ids=str)
def test_files_come_back(name, kind):
    for seed in range(2):  # tied and not
        torch_parity.assert_file_comes_back(torch_parity.example_shape(name, seed), kind, seed)


@pytest.mark.parametrize("name", NETWORKS)
def test_float32_and_bfloat16_are_as_near_as_they_can_be(name):
    config = torch_parity.example_shape(name, seed=2)
    torch_parity.assert_is_torchs(config, HeadKind.TOKEN, seed=2, dtype="float32")
    torch_parity.assert_bfloat16_is_as_near_as_torchs(config, HeadKind.TOKEN, seed=2)


@pytest.mark.sweep
@pytest.mark.parametrize(("name", "kind"), HEADS, ids=str)
def test_any_shape_is_torchs(name, kind):
    @settings(max_examples=12)
    @given(torch_parity.shapes(name), st.integers(0, 1000))
    def check(config, seed):
        torch_parity.assert_is_torchs(config, kind, seed, "float64")
        torch_parity.assert_is_torchs(config, kind, seed, "float32")
        torch_parity.assert_file_comes_back(config, kind, seed)

    check()
