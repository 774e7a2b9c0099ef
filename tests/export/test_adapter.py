"""What PEFT's files have no place for is refused by name, before anything is written."""

from pathlib import Path

import pytest

from jaxft.errors import UserError
from jaxft.export.adapter import export_adapter
from jaxft.inference.model import make_model
from jaxft.models.pretrained_model import PretrainedModel
from jaxft.training.run_folder.workdir import Run
from jaxft.training.settings import settings_from_config
from tests.models import torch_parity

NO_PREFIX = "transformers' classes of {} take no prefix; keep the run, and use it by predict or evaluate"
NO_TYPES = (
    "PEFT's model for questions leaves token types out, which this {} reads; keep the run, and use it by"
)
FITS = "the base is the run of_the_base, which PEFT cannot read"  # the next check


@pytest.mark.parametrize(
    ("model_type", "task", "method", "message"),
    [
        ("distilbert", "token_classification", "prefix", NO_PREFIX.format("DistilBERT")),
        ("mpnet", "token_classification", "prefix", NO_PREFIX.format("MPNet")),
        ("modernbert", "sequence_classification", "prefix", NO_PREFIX.format("ModernBERT")),
        ("distilbert", "token_classification", "prompt", FITS),
        ("bert", "question_answering", "prefix", NO_TYPES.format("BERT")),
        ("bert", "question_answering", "prompt", NO_TYPES.format("BERT")),
        ("bert", "token_classification", "prefix", FITS),
        ("distilbert", "question_answering", "prompt", FITS),
    ],
)
def test_virtual_tokens_that_peft_computes_otherwise_are_refused(model_type, task, method, message, tmp_path):
    values = {"adapter.method": method, "adapter.num_virtual_tokens": 2, "data.max_length": 8}
    config = settings_from_config({"task": task, "model.checkpoint": "run:of_the_base"} | values)
    hf_config = torch_parity.example_shape(model_type, seed=1).to_hf()
    labels = [] if task == "question_answering" else ["O", "B-X"]
    checkpoint = PretrainedModel("run:of_the_base", None, hf_config, None)
    model = make_model(Run(config, checkpoint, labels, {}, Path("runs/x")), lambda net, config: {})
    with pytest.raises(UserError, match=f"^--format peft: {message}"):
        export_adapter(model, tmp_path / "adapter", lambda folder: None)
    assert not list(tmp_path.iterdir())
