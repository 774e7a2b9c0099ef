"""Networks of images train over eight devices as over one."""

import json
import math

import jax
import numpy as np
import pytest

from jaxft.models.pretrained_model import resolve_model
from jaxft.parallel.mesh import make_mesh, place_batch, put_array
from jaxft.tasks.registry import make_task
from jaxft.training.network import make_network
from jaxft.training.settings import settings_from_config
from jaxft.training.trainer import make_trainer

LABELS = [f"label {number}" for number in range(5)]
SHAPES = {
    "resnet": {"embedding_size": 6, "hidden_sizes": [8, 16], "depths": [2, 1], "layer_type": "basic"},
    "vit": {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 24,
        "patch_size": 4,
        "hidden_dropout_prob": 0.2,
        "attention_probs_dropout_prob": 0.2,
    },
}
SCRIPT = """
import json, sys
sys.path.insert(0, sys.argv[1] + "/..")
from tests.models.test_image_meshes import *

assert jax.device_count() == 8
meshes = (1, 1, 1), json.loads(sys.argv[2])
print(json.dumps({name: [train_over(name, sizes) for sizes in meshes] for name in SHAPES}))
"""


def train_over(name, sizes):
    """Losses and gradient norms of three steps over devices, and the sum of the statistics after them."""
    values = {"optim.name": "sgd", "optim.lr": 0.01, "optim.schedule": "constant", "batch.accumulate": 2}
    values |= {"task": "image_classification", "data.image_size": 16}
    values |= dict(zip(("mesh.data", "mesh.fsdp", "mesh.tensor"), sizes, strict=True))
    config = settings_from_config(values)
    mesh = make_mesh(config, jax.devices()[: math.prod(sizes)])
    hf_config = SHAPES[name] | {"model_type": name, "image_size": config.data.image_size}
    task = make_task(LABELS, config, head_dropout=0.2)
    trainer = make_trainer(
        make_network(task, *resolve_model(config, hf_config), mesh), config, total=9, warmup=0
    )
    first = jax.tree.map(np.asarray, jax.jit(trainer.net.new_parameters)(np.uint32(0)))
    state = trainer.new_state({n: put_array(v, trainer.net.abstract[n].sharding) for n, v in first.items()})
    rng, hyperparameters, steps = np.random.default_rng(0), trainer.place_hyperparameters(), []
    for _ in range(3):
        batch = {
            "pixels": rng.normal(size=(16, 16, 16, 3)),
            "labels": np.eye(len(LABELS))[rng.integers(0, len(LABELS), 16)],
            "weights": np.arange(16) < 13,
        }
        arrays = place_batch({n: value.astype(np.float32) for n, value in batch.items()}, mesh)
        state, metrics = trainer.train_step(state, arrays, hyperparameters)
        steps.append([float(metrics["loss"]), float(metrics["grad_norm"])])
    held = jax.tree.leaves(state.trainable)
    share = sum(x.addressable_shards[0].data.nbytes for x in held) / sum(x.nbytes for x in held)
    return steps, sum(float(abs(value).sum()) for value in state.model_state.values()), share


@pytest.mark.sweep
@pytest.mark.parametrize("sizes", [(8, 1, 1), (2, 2, 2)], ids=["data", "all axes"])
def test_eight_devices_train_as_one_does(on_eight_devices, sizes):
    """With microbatches, of which the second has rows that do not count; fsdp splits kernels."""
    for name, (single, eight) in on_eight_devices(SCRIPT, json.dumps(sizes)).items():
        steps, statistics, share = eight
        np.testing.assert_allclose(steps, single[0], rtol=1e-4, err_msg=name)
        assert statistics == pytest.approx(single[1], rel=1e-5) and (statistics > 0) == (name == "resnet")
        assert share == 1 if sizes[1] == 1 else share < 0.6
