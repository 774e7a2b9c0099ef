"""Each family is torch, in logits and gradients of packed texts, for each kind of head, and comes back bit for bit."""

import functools

import pytest
import torch
import transformers
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxft.layers import parameter_paths
from jaxft.layers.heads.kinds import HeadKind
from jaxft.layers.runtime import PLAIN_RUNTIME
from jaxft.models.registry import FAMILIES, make_backbone
from tests.models import torch_parity

# The heads that have a class of transformers with logits.
HEADS = [
    (name, kind)
    for name, family in FAMILIES.items()
    for kind in family.heads
    if kind not in (HeadKind.SHARED, HeadKind.IMAGE)  # images: `test_image_parity.py`
]
# XLM-R and CamemBERT are RoBERTa's network under other names.
NETWORKS = [name for name in dict(HEADS) if name not in ("xlm-roberta", "camembert")]
QUICK = [(name, kind) for name, kind in HEADS if name in NETWORKS]


@pytest.mark.parametrize(("name", "kind"), QUICK, ids=str)
def test_logits_and_gradients_are_torchs(name, kind):
    config = torch_parity.example_shape(name, seed=list(HeadKind).index(kind))
    torch_parity.assert_is_torchs(config, kind, seed=1, dtype="float64")


@pytest.mark.parametrize(("name", "kind"), HEADS, ids=str)
def test_files_come_back(name, kind):
    for seed in range(2):  # tied and not
        torch_parity.assert_file_comes_back(torch_parity.example_shape(name, seed), kind, seed)


@pytest.mark.parametrize("name", FAMILIES)
def test_transformers_has_every_class_of_a_family(name):
    family = FAMILIES[name]
    for architecture in (family.architecture, *(head.architecture for head in family.heads.values())):
        assert getattr(transformers, architecture).config_class.model_type == name


def test_a_new_model_has_the_shape_of_its_familys_base_model():
    """Numbers of parameters, without pooler, are those of transformers' classes and of the papers."""
    papers = {
        "bert": 109,
        "roberta": 124,
        "xlm-roberta": 277,
        "camembert": 110,
        "distilbert": 66,
        "electra": 108,
    }
    papers |= {"mpnet": 109, "gpt2": 124, "modernbert": 149, "deberta-v2": 184}  # millions
    for model_type, millions in papers.items():
        family = FAMILIES[model_type]
        hf_config = family.new_model.make_config({}, 1024, 50257)
        with torch.device("meta"):
            theirs = transformers.AutoModel.from_config(transformers.AutoConfig.for_model(**hf_config))
        config = family.config_class.from_hf(hf_config)
        make = functools.partial(make_backbone, config, PLAIN_RUNTIME)
        state = nnx.state(nnx.eval_shape(lambda make=make: make(rngs=nnx.Rngs(0))))
        sizes = {path: leaf.size for path, leaf in parameter_paths.flatten(nnx.to_pure_dict(state)).items()}
        for rule in family.table.rules:
            path = rule.parameter.removeprefix("backbone/")
            if rule.unused is not None and path in sizes:  # nothing reads the first layer's
                sizes[path] -= sizes[path] // config.num_layers
        count = sum(sizes.values())
        named = dict(theirs.named_parameters())
        assert count == sum(x.numel() for name, x in named.items() if not name.startswith("pooler")), (
            model_type
        )
        assert round(count / 1e6) == pytest.approx(millions, abs=1), model_type


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
