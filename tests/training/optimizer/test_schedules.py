"""Learning rates: as Hugging Face's schedules have them, with any warmup."""

import jax.numpy as jnp
import pytest

from jaxft.config.optim import SCHEDULES
from jaxft.errors import UserError
from jaxft.training.optimizer.schedules import learning_rate, make_hyperparameters
from jaxft.training.settings import settings_from_config


def config_with(**values):
    return settings_from_config(
        {"task": "token_classification"} | {f"optim.{name}": value for name, value in values.items()}
    )


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("warmup", [0, 3, 20])
def test_rates_are_those_of_transformers(schedule, warmup):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    cooldown = min(5, 20 - warmup)
    options = {
        "polynomial": {"power": 2.5, "lr_end": 0.0},
        "warmup_stable_decay": {"num_decay_steps": cooldown},
    }.get(schedule)
    theirs = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    name = "constant_with_warmup" if schedule == "constant" else schedule
    scheduler = transformers.get_scheduler(
        name, theirs, num_warmup_steps=warmup, num_training_steps=20, scheduler_specific_kwargs=options
    )
    values = {"power": 2.5} if schedule == "polynomial" else {}
    config = config_with(lr=0.3, schedule=schedule, **values)
    hyper = make_hyperparameters(config, total=20, warmup=warmup, cooldown=cooldown)
    for step in range(20):
        ours = learning_rate(schedule, hyper, jnp.int32(step))
        assert float(ours) == pytest.approx(scheduler.get_last_lr()[0], rel=1e-5, abs=1e-8), step
        if step < 19:  # at the end of a warmup as long as the run, theirs divides by 0
            theirs.step()
            scheduler.step()


def test_warmup_and_cooldown_fit_into_the_run():
    with pytest.raises(UserError, match=r"warmup is 30 steps, but the run has 20"):
        make_hyperparameters(config_with(), total=20, warmup=30)
    config = config_with(schedule="warmup_stable_decay")
    with pytest.raises(
        UserError, match=r"warmup is 12 steps and config.optim.cooldown 9, but the run has 20"
    ):
        make_hyperparameters(config, total=20, warmup=12, cooldown=9)
