"""The first parameters of a run: which come from the checkpoint, and what is said of its head."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxft.models.pretrained_model import resolve_model
from jaxft.parallel.mesh import make_mesh
from jaxft.tasks.registry import make_data, make_task
from jaxft.training.network import initial_parameters, make_network
from jaxft.training.settings import settings_from_config
from tests.data.vocabularies import make_tokenizer
from tests.models import torch_parity

TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
SHUFFLED = ["I-LOC", "O", "B-LOC", "I-PER", "B-PER"]
KINDS = [
    ("token_classification", "tiny_bert", "BertForTokenClassification", "classifier"),
    ("token_classification", "tiny_gpt2", "GPT2ForTokenClassification", "classifier"),
    ("sequence_classification", "tiny_bert", "BertForSequenceClassification", "classifier"),
    ("sequence_classification", "tiny_gpt2", "GPT2ForSequenceClassification", "score"),
    ("sequence_classification", "tiny_bert", "RobertaForSequenceClassification", "classifier.out_proj"),
]


@pytest.fixture
def load_first(request, tmp_path):
    """Saves transformers' class `architecture`, and returns its head and what a run of `task` starts with."""

    def load(task, base, architecture, head, *, labels, stored=TAGS, **changes):
        import torch
        import transformers

        shutil.copytree(request.getfixturevalue(base), tmp_path / "model")
        names = dict(enumerate(stored))
        model_class = getattr(transformers, architecture)
        fields = json.loads((tmp_path / "model/config.json").read_text())
        fields |= {"model_type": model_class.config_class.model_type, "id2label": names}
        config = model_class.config_class.from_dict(
            fields | {"label2id": {name: number for number, name in names.items()}}
        )
        torch.manual_seed(1)
        model = model_class(config)
        tensors = {name: tensor.detach().numpy().copy() for name, tensor in model.state_dict().items()}
        save_file(tensors, tmp_path / "model/model.safetensors")
        (tmp_path / "model/config.json").write_text(
            json.dumps(config.to_dict() | {"architectures": [architecture]})
        )
        options = {"model.checkpoint": str(tmp_path / "model"), "data.max_length": 32, "task": task} | changes
        settings = settings_from_config(options)
        checkpoint = make_data(settings).open_model(())
        task = make_task(labels, settings, head_dropout=0.0)
        net = make_network(task, *resolve_model(settings, checkpoint.hf_config), make_mesh(settings))
        parameters, line = initial_parameters(net, settings, checkpoint)
        assert parameters.keys() == net.abstract.keys()
        weight = tensors[f"{head}.weight"]
        [kernel] = [value for name, value in parameters.items() if name == "head/kernel"]
        if "head is kept" in line and (dense := tensors.get("classifier.dense.weight")) is not None:
            np.testing.assert_array_equal(parameters["head/dense/kernel"], dense.T)
        bias = (tensors[f"{head}.bias"], parameters["head/bias"]) if f"{head}.bias" in tensors else None
        return weight, np.asarray(kernel), bias, line

    return load


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind[2])
def test_a_head_for_the_same_labels_is_kept_in_the_runs_order(kind, load_first):
    weight, kernel, bias, line = load_first(*kind, labels=SHUFFLED)
    rows = [TAGS.index(label) for label in SHUFFLED]
    np.testing.assert_array_equal(kernel, weight[rows].T)
    if bias:
        np.testing.assert_array_equal(bias[1], bias[0][rows])
    assert line.endswith("; the checkpoint's head is kept, for it has the same 5 labels")
    assert "newly initialized" not in line


def test_the_head_of_questions_is_kept(load_first):
    kind = ("question_answering", "tiny_bert", "BertForQuestionAnswering", "qa_outputs")
    weight, kernel, _, line = load_first(*kind, labels=["start", "end"], stored=["LABEL_0", "LABEL_1"])
    np.testing.assert_array_equal(kernel, weight.T)
    assert "head is kept" in line and "newly initialized: backbone" not in line


@pytest.mark.parametrize("kind", KINDS[::2], ids=lambda kind: kind[2])
def test_a_head_for_other_labels_is_new_and_that_is_said(kind, load_first):
    _, _, _, line = load_first(*kind, labels=["O", "B-X", "I-X"])
    assert "newly initialized: head/" in line
    assert line.endswith(
        "the checkpoint's head is for O, B-PER, I-PER, B-LOC, I-LOC, so the head for O, B-X, I-X is new"
    )


@pytest.mark.parametrize(
    ("task", "kind", "changes"),
    [
        ("sequence_classification", KINDS[0], {}),  # the head of another task
        ("token_classification", KINDS[2], {}),
        ("token_classification", KINDS[0], {"model.crf": True}),
        ("sequence_classification", KINDS[2], {"model.pool": "mean"}),  # a head over another vector
        ("sequence_classification", KINDS[2], {"model.problem_type": "multi_label_classification"}),
    ],
)
def test_a_head_that_means_something_else_is_new(task, kind, changes, load_first):
    weight, kernel, _, line = load_first(task, *kind[1:], labels=TAGS, **changes)
    assert "head/kernel" in line.partition("newly initialized: ")[2] and "head is kept" not in line
    assert not np.array_equal(kernel, weight.T)


@pytest.mark.parametrize(
    ("task", "architecture", "layer", "expected"),
    [
        ("token_classification", "ModernBertForMaskedLM", "dense", {"head/kernel", "head/bias"}),
        (
            "sequence_classification",
            "ModernBertForTokenClassification",
            "dense",
            {"head/kernel", "head/bias"},
        ),
        ("masked_lm", "ModernBertForSequenceClassification", "transform", {"head/bias"}),
    ],
)
def test_layers_that_pretraining_has_in_all_heads_are_kept(task, architecture, layer, expected, tmp_path):
    """As transformers does. The output layer of another task is new."""
    import torch
    import transformers

    tokenizer = make_tokenizer("modernbert")
    tokenizer.save_pretrained(tmp_path / "model")
    fields = torch_parity.example_shape("modernbert", seed=1).to_hf() | {"vocab_size": len(tokenizer)}
    config = transformers.AutoConfig.for_model(**fields, pad_token_id=tokenizer.pad_token_id, num_labels=7)
    torch.manual_seed(1)
    model = getattr(transformers, architecture)(config)
    model.save_pretrained(tmp_path / "model")
    options = {"model.checkpoint": str(tmp_path / "model"), "data.max_length": 12, "task": task}
    settings = settings_from_config(options)
    checkpoint = make_data(settings).open_model(())
    task = make_task(TAGS, settings, head_dropout=0.0)
    net = make_network(task, *resolve_model(settings, checkpoint.hf_config), make_mesh(settings))
    parameters, line = initial_parameters(net, settings, checkpoint)
    head = model.head.state_dict()
    np.testing.assert_array_equal(parameters[f"head/{layer}/kernel"], head["dense.weight"].numpy().T)
    np.testing.assert_array_equal(parameters["head/norm/scale"], head["norm.weight"].numpy())
    new = set(line.partition("newly initialized: ")[2].split("; ")[0].split(", "))
    assert new == expected
