"""Several adapters in one packed row: each text has the logits that it has with its adapter alone."""

import dataclasses
import types

import jax
import numpy as np
import peft
import pytest

from jaxft.config.adapter import Adapter
from jaxft.errors import UserError
from jaxft.inference.adapters import mixture
from jaxft.inference.model import Model
from jaxft.layers.heads.kinds import HeadKind
from jaxft.layers.runtime import Runtime
from jaxft.parallel.mesh import make_mesh
from jaxft.training.network import make_network
from jaxft.training.settings import settings_from_config
from jaxft.training.step import merge_model
from tests.adapters import test_adapters
from tests.adapters.peft import parity
from tests.models import torch_parity

PER_SEGMENT = [
    [0, 1, 0, 0],
    [2, 3, 0, 1],
]  # the adapters of the texts in torch_parity.ROWS; two texts are in row 0
# What peft makes, and what only jaxft trains.
QUERY, DOWN = r".*(query|q_lin|c_attn|Wqkv|attn\.q)", r".*(\d\.output\.dense|lin2|mlp\.c_proj|mlp\.Wo)"
THEIRS = (
    lambda: peft.LoraConfig(r=2, target_modules=f"({QUERY}|{DOWN})"),
    lambda: peft.LoraConfig(r=3, use_dora=True, bias="all", target_modules=rf".*\.1\.{QUERY}"),
    lambda: peft.IA3Config(target_modules=f"({QUERY}|{DOWN})", feedforward_modules=DOWN),
)
OURS = {"method": "bitfit"}


def make_models(model_type: str, kind: HeadKind, folder) -> list[Model]:
    """Returns models with adapters on the same base: three of peft, and one of ours."""
    config, models = torch_parity.example_shape(model_type, seed=1), []
    for number, make_adapter in enumerate([*THEIRS, None]):
        base, theirs = parity.make_peft(config, kind, (make_adapter or THEIRS[0])(), seed=1)
        if make_adapter is None:
            ours = parity.make_ours(config, kind, base, Adapter(**OURS), "float32")
        else:
            path = parity.save_peft(theirs, folder / f"{model_type}-{kind.value}-{number}")
            ours = parity.load_ours(config, kind, base, path, "float32")
        rng = np.random.default_rng(number)
        for name, value in ours.parameters.items():
            is_new_head = not name.startswith("backbone/") or name.startswith("backbone/pooler/")
            if is_new_head or (make_adapter is None and ours.plan.trains(name, ours.roles[name])):
                ours.parameters[name] = value + 0.2 * rng.normal(size=value.shape).astype(np.float32)
        plan, mesh = ours.plan, make_mesh(settings_from_config({"task": "sequence_classification"}))
        net = make_network(ours.task, config, Runtime(), mesh, lambda _, plan=plan: plan)
        run = types.SimpleNamespace(config=types.SimpleNamespace(data=types.SimpleNamespace(max_length=16)))
        models.append(Model(run, ours.task, None, net, ours.parameters, rows=2))
    return models


def compute_logits(model: Model, batch):
    compute = jax.jit(
        lambda parameters: model.task.logits(merge_model(model.net.graphdef, parameters), batch)
    )
    return jax.device_get(compute(model.parameters))


@pytest.mark.parametrize(
    ("model_type", "kind"),
    [
        ("bert", HeadKind.SEQUENCE),
        ("gpt2", HeadKind.TOKEN),
        ("roberta", HeadKind.QUESTION),
        *(
            pytest.param(*pair, marks=pytest.mark.sweep)
            for pair in (
                ("electra", HeadKind.TOKEN),
                ("modernbert", HeadKind.SEQUENCE),
                ("distilbert", HeadKind.SEQUENCE),
                ("mpnet", HeadKind.QUESTION),
            )
        ),
    ],
)
def test_texts_that_share_rows_have_the_logits_of_their_adapters_alone(model_type, kind, tmp_path):
    models = make_models(model_type, kind, tmp_path)
    batch, _ = torch_parity.random_batch(models[0].net.model_config, 0)
    expected = [compute_logits(model, batch) for model in models]
    mixed = mixture.join_models(models)
    logits = compute_logits(mixed, batch | {"adapter": np.array(PER_SEGMENT, np.int32)})
    compared = set()
    for row, numbers in enumerate(PER_SEGMENT):
        for segment in range(len(torch_parity.ROWS[row])):
            number = numbers[segment]
            place = segment if kind is HeadKind.SEQUENCE else batch["segment_ids"][row] == segment + 1
            of_text = [values[row][place] for values in expected]
            scale = np.abs(of_text[number]).max()
            np.testing.assert_allclose(
                logits[str(number)][row][place] / scale, of_text[number] / scale, atol=1e-5
            )
            others = [np.abs(of_text[other] - of_text[number]).max() for other in range(4) if other != number]
            assert min(others) > 0.01
            compared.add(number)
    assert compared == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"method": "bottleneck", "r": 2},
            "several adapters of the method 'bottleneck' cannot share rows; answer its",
        ),
        ({"method": "prefix"}, "several adapters of the method 'prefix' cannot share rows"),
        (
            {"method": "lora", "modules_to_save": ("embeddings/position",)},
            "comes with its own 'backbone/embeddings/position/embedding' of the base, and adapters share rows only if",
        ),
    ],
)
def test_adapters_that_cannot_share_rows_are_refused(settings, message):
    net = test_adapters.network(settings)
    with pytest.raises(UserError, match=message):
        mixture.check_shares_rows(net)


def test_adapters_of_a_family_that_reads_distances_for_all_rows_are_refused():
    config = torch_parity.example_shape("deberta-v2", seed=1)
    net = dataclasses.replace(test_adapters.network({"method": "lora"}), model_config=config)
    with pytest.raises(
        UserError, match="how the distances of words are read, which is the same in an entire row"
    ):
        mixture.check_shares_rows(net)
