"""The base of a run with adapters: what is said if it is no longer there."""

import pytest

from jaxft.errors import UserError
from jaxft.training.run_folder.frozen_base import open_base_model
from jaxft.training.settings import load_settings


def test_a_base_that_is_gone_is_said_to_be_that_of_adapters(tmp_path):
    config = load_settings("ner:lora", [f"--config.model.checkpoint={tmp_path}/moved"])
    with pytest.raises(
        UserError, match="the run holds adapters alone, and its base is not there; .*/moved': no such"
    ):
        open_base_model(config, print)
