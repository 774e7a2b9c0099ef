"""The base of a run with adapters: what is said if it is no longer there, or another."""

import pytest

from jaxft.errors import UserError
from jaxft.models.pretrained_model import PretrainedModel
from jaxft.training.run_folder.frozen_base import load_base, open_base_model
from jaxft.training.settings import load_settings
from tests.adapters.test_adapters import GPT2_SHAPE, network


def test_a_base_that_is_gone_is_said_to_be_that_of_adapters(tmp_path):
    config = load_settings("ner:lora", [f"--config.model.checkpoint={tmp_path}/moved"])
    with pytest.raises(
        UserError, match="the run holds adapters alone, and its base cannot be opened; .*/moved': no such"
    ):
        open_base_model(config, print)


def test_a_base_of_another_family_is_refused():
    config, other = load_settings("ner:lora"), PretrainedModel("here", None, GPT2_SHAPE.to_hf(), None, 0)
    with pytest.raises(
        UserError, match="'here': found a gpt2, but the run's adapters are for a bert; put back"
    ):
        load_base(network({"method": "lora"}), config, other, print)
