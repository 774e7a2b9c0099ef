"""AdaLoRA's ranks go as the budget says, whatever the form of the state, and after a resume too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxft.config.adapter import Adapter
from jaxft.data.batching.batch import Shape
from jaxft.errors import UserError
from jaxft.layers.transformer.layer_stacks import stack
from jaxft.parallel.mesh import place_batch
from jaxft.training.trainer import make_trainer
from tests.adapters.test_adapters import config_with, first_parameters, network
from tests.training import test_step

SETTINGS = {
    "method": "adalora",
    "init_r": 4,
    "target_r": 1,
    "rank_pattern": (("layer.1.attention.self.query", 2),),
    "deltaT": 2,
    "dropout": 0.2,
}
VALUES = [f"backbone/layers/attention/{name}/adapter/values" for name in ("query", "value")]
STEPS, PHASES = 7, {"tinit": 1, "tfinal": 2}


def count_ranks(saved) -> int:
    return sum(int((saved.trainable[name] != 0).sum()) for name in VALUES)


@pytest.mark.sweep  # five steps are peft's in test_training.py
def test_ranks_go_in_stacked_and_separate_layers_and_resumed():
    """With a module of a smaller rank, dropout, and other microbatches; the state is loaded between two steps."""
    start, runs = None, []
    for accumulate, unroll in ((4, False), (2, True)):
        net = network(SETTINGS, unroll=unroll)
        start = start or first_parameters(net)
        config = config_with(SETTINGS, **test_step.SMOOTH, **{"batch.accumulate": accumulate})
        trainer = make_trainer(net, config, total=STEPS, warmup=0, **PHASES)
        program = trainer.compile(Shape(test_step.ROWS, test_step.LENGTH))
        hyperparameters = trainer.place_hyperparameters()
        state = trainer.new_state(jax.tree.map(jnp.copy, start))
        metrics, ranks = [], []
        for number in range(STEPS):
            if number == 3:  # as a run that resumes does
                saved = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)), trainer.to_saved(state))
                base = stack({name: state.frozen[name] for name in net.base_names})
                state = trainer.form.from_saved(saved._replace(frozen=saved.frozen | base))
            state, values = program(state, place_batch(test_step.batch(number), net.mesh), hyperparameters)
            metrics.append({key: float(value) for key, value in values.items()})
            ranks.append(count_ranks(trainer.to_saved(state)))
        runs.append((metrics, trainer.to_saved(state).trainable))
        # 14 ranks; the third step, number 2, leaves int(10 * 0.75**3 + 4); then one goes back, until the last choice.
        assert ranks == [14, 14, 8, 14, 4, 4, 4]
    (expected, trained), (metrics, other) = runs
    for ours, theirs in zip(metrics, expected, strict=True):
        assert ours == pytest.approx(theirs, rel=2e-5)
    for name, value in trained.items():
        np.testing.assert_allclose(other[name], value, atol=2e-5, err_msg=name)
    query = trained[VALUES[0]]
    np.testing.assert_array_equal(query[1, 2:], 0)


@pytest.mark.parametrize(
    ("settings", "phases", "message"),
    [
        ({"target_r": 5}, {}, "config.adapter.init_r=4: config.adapter.target_r or rank_pattern is 5, and"),
        ({"rank_pattern": (("query", 6),)}, {}, "init_r=4: .* is 6"),
        ({}, {"tinit": 3, "tfinal": 4}, "tinit is 3 steps and config.adapter.tfinal 4, but the run has 7"),
        (
            {},
            {"freeze": ("adapter/values$",)},
            "optim.freeze freezes .*query/adapter/values, but adalora trains all",
        ),
    ],
)
def test_budgets_that_cannot_be_are_refused(settings, phases, message):
    settings, freeze = SETTINGS | settings, phases.pop("freeze", ())
    with pytest.raises(UserError, match=message):
        Adapter(**settings).check()
        make_trainer(
            network(settings),
            config_with(settings, **{"optim.freeze": freeze}),
            total=STEPS,
            warmup=0,
            **phases,
        )
