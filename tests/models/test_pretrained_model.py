"""Opening a checkpoint: the order of its checks."""

import json

import pytest

from jaxft.errors import UserError
from jaxft.models.pretrained_model import open_pretrained_model
from jaxft.training.settings import load_settings


def test_a_config_that_is_not_supported_is_named_before_the_tokenizer_is_read(tmp_path):
    rope = {"rope_parameters": {"full_attention": {"rope_type": "yarn"}}}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "modernbert"} | rope))
    config = load_settings("ner", [f"--config.model.checkpoint={tmp_path}"])
    with pytest.raises(UserError, match='config.json: rope_type is "yarn", but only'):
        open_pretrained_model(config, list, reads_words=True, supported=("modernbert",))
