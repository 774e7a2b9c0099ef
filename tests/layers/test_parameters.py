"""Tests that parameters say what they are where they are made: what decays, and what splits them over devices."""

import jax.numpy as jnp
import pytest
from flax import nnx

from jaxft.layers.heads.classification import HeadForm
from jaxft.layers.heads.crf import CRFHead
from jaxft.layers.parameters import Kind, Role, read_roles
from tests.models.test_output_positions import make

EXPECTED = {
    "backbone/embeddings/word/embedding": Role(Kind.VOCABULARY, ("tensor", "fsdp")),
    "backbone/embeddings/position/embedding": Role(Kind.EMBEDDING, (None, "fsdp")),
    "backbone/layers/attention/query/kernel": Role(Kind.KERNEL, ("fsdp", "tensor"), True),
    "backbone/layers/attention/query/bias": Role(Kind.BIAS, ("tensor",)),
    "backbone/layers/attention/output/kernel": Role(Kind.KERNEL, ("tensor", "fsdp")),
    "backbone/layers/attention/output/bias": Role(Kind.BIAS),
    "backbone/layers/attention_norm/bias": Role(Kind.NORM),
    "backbone/layers/mlp/up/kernel": Role(Kind.KERNEL, ("fsdp", "tensor")),
    "backbone/layers/mlp/down/kernel": Role(Kind.KERNEL, ("tensor", "fsdp")),
}


@pytest.mark.parametrize("kind", ["pooler", "last"])  # of a BERT and of a GPT-2
def test_every_parameter_of_a_network_has_its_role(kind):
    roles = read_roles(nnx.eval_shape(lambda: make(kind)))
    assert {name: roles[name] for name in EXPECTED} == EXPECTED
    assert {name for name, role in roles.items() if role.is_matrix} == {
        name for name in roles if name.endswith(("kernel", "embedding"))
    }
    assert roles["head/kernel"] == Role(Kind.KERNEL, ("fsdp", None))


def test_transitions_of_labels_are_no_matrix_of_a_product():
    roles = read_roles(
        nnx.eval_shape(lambda: CRFHead(4, 3, HeadForm(), initializer_range=0.1, rngs=nnx.Rngs(0)))
    )
    assert [name for name, role in roles.items() if role.is_matrix] == ["kernel"]


def test_a_parameter_without_a_role_is_named():
    with pytest.raises(ValueError, match="the parameter 'a/scale' has no role: make it by"):
        read_roles(nnx.Dict(a=nnx.Dict(scale=nnx.Param(jnp.ones(2)))))
