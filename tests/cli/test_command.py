"""Arguments that are no flags of a verb are answered with the setting that they may mean."""

import re

import pytest

from jaxft.cli.command import check_overrides
from jaxft.errors import UserError


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            ["--learning_rate=3e-5"],
            "--learning_rate=3e-5: unknown flag; did you mean --config.optim.lr=3e-5?",
        ),
        (["--learning-rate", "3e-5"], "--learning-rate: unknown flag; did you mean --config.optim.lr=...?"),
        (["--per_device_train_batch_size=8"], "did you mean --config.batch.examples=8?"),
        (["--config.seed=1", "--num_train_epochs=3"], "did you mean --config.train.epochs=3?"),
        (["--doc_stride=128"], "did you mean --config.data.stride=128?"),
        (["--output_dir=x"], "did you mean --workdir=...?"),
        (["--optim.lr=1"], "did you mean --config.optim.lr=1?"),
        (["--lr=1"], "did you mean --config.optim.lr=1?"),
        (["--report_to=wandb"], "did you mean --config.log.tensorboard=... or --config.log.wandb=...?"),
        (["--qqqqqq=1"], "--qqqqqq=1: unknown flag; settings are given as --config.optim.lr=3e-5"),
        (
            ["predict", "--run=x"],
            "predict: a verb where a flag was expected; a verb comes first: `jaxft predict ...`",
        ),
        (["train.conll"], "train.conll: unknown flag; settings are given as"),
        (["--config.optim.lr", "3e-5"], "--config.optim.lr 3e-5: write it with =, as --config.optim.lr=3e-5"),
    ],
)
def test_flags_that_transformers_knows_are_answered_with_our_settings(arguments, message):
    with pytest.raises(UserError, match=re.escape(message)):
        check_overrides(arguments)


def test_settings_are_left_to_the_loader():
    check_overrides(["--config.optim.lr=1", "--config.nothing=1"])
