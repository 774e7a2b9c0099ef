"""Text classification from text on equals torch, packed and unpacked, and reads whole documents."""

import dataclasses
import functools
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from transformers import BertConfig, BertForSequenceClassification, BertModel
from transformers.modeling_outputs import SequenceClassifierOutput

from jaxft.data.batching.choice import make_loader
from jaxft.data.batching.output_positions import prune_batches
from jaxft.data.sources.labelled_texts import LabelledText
from jaxft.data.sources.labels import MULTI, NUMBER, SINGLE
from jaxft.errors import UserError
from jaxft.hub.processors import TextProcessor
from jaxft.hub.weights import load_weights
from jaxft.layers.dropout import DropoutSeed
from jaxft.layers.heads.kinds import HeadKind
from jaxft.layers.inputs import Inputs
from jaxft.layers.runtime import PLAIN_RUNTIME
from jaxft.models.bert import config as bert_config
from jaxft.models.bert.family import FAMILY
from jaxft.models.registry import FAMILIES
from jaxft.parallel.mesh import make_mesh
from jaxft.tasks.base import Split
from jaxft.tasks.sequence_classification.data import LabelledTexts
from jaxft.tasks.sequence_classification.evaluation import TextEvaluator
from jaxft.tasks.sequence_classification.export import TextExport
from jaxft.tasks.sequence_classification.task import SequenceClassification
from jaxft.training import step
from jaxft.training.evaluation import predict_batches
from jaxft.training.network import make_network
from jaxft.training.settings import settings_from_config
from jaxft.training.trainer import compile_eval
from tests.data.tiny_text import tokenizer
from tests.models.parity import assert_gradients_equal_torch, randomize
from tests.tasks.tiny_bert import tiny_bert

TABLE = FAMILY.table_with_head(HeadKind.SEQUENCE, bert_config.BertConfig())

LENGTH = 16
QUICK = {"xla_backend_optimization_level": 0}  # compiles quickly
HF = tiny_bert(LENGTH)
LABELS = {SINGLE: ["x", "y", "z"], MULTI: ["x", "y", "z"], NUMBER: ["value"]}


def settings(problem=SINGLE, pair=False, **changed):
    values = settings_from_config(
        {
            "task": "sequence_classification",
            "model.problem_type": problem,
            "data.text_pair": "pair" if pair else None,
            "data.max_length": LENGTH,
            "data.max_segments": 4,
        }
        | {key.replace("__", "."): value for key, value in changed.items()}
    )
    return values


def task_of(values):
    return SequenceClassification(LABELS[values.model.problem_type], values, head_dropout=0.2)


def network(values):
    shape = bert_config.BertConfig.from_hf(HF.to_dict())
    return make_network(task_of(values), shape, PLAIN_RUNTIME, make_mesh(values))


def examples(problem, pair, count=11, longest=20):
    rng = np.random.default_rng(3)

    def text():
        return " ".join(rng.choice(list("abcdefgh"), rng.integers(1, longest)))

    labels = {
        SINGLE: lambda: str(rng.choice(["x", "y", "z"])),
        MULTI: lambda: tuple(label for label in "xyz" if rng.random() < 0.5),
        NUMBER: lambda: float(rng.normal()),
    }
    return [LabelledText(text(), text() if pair else None, labels[problem](), f"x:{i}") for i in range(count)]


def gradient_of(net):
    """Returns the compiled (parameters, batch) -> ((loss sum, weight), gradients), without dropout."""

    @functools.partial(jax.jit, compiler_options=QUICK)
    def gradient(parameters, batch):
        def loss(parameters):
            return net.task.loss(step.merge_model(net.graphdef, parameters), batch, None)

        return jax.value_and_grad(loss, has_aux=True)(parameters)

    return gradient


def mean_loss(net, gradient, parameters, windows, *, pack=True):
    """Returns (loss, its gradient) over all windows, from batches of one shape.

    If windows are packed, the last layer computes only what the task says that its loss reads.
    """
    task = net.task
    options = {"pack": pack, "buckets": [LENGTH], **task.batch_spec.loader_options()}
    loader = make_loader(windows, rows=2, max_length=LENGTH, **options)
    if pack and (rule := task.output_rule(net.model_config)):
        loader = prune_batches(loader, rule, {0: windows}, steps=loader.steps_per_epoch, groups=1)
        assert loader.shapes[0].output_shape[1] < 2 * LENGTH or not task.batch_spec.max_segments
    results = [gradient(parameters, loader.batch(n).arrays) for n in range(loader.steps_per_epoch)]
    losses, gradients = zip(*results, strict=True)
    total, weight = (sum(float(loss[i]) for loss in losses) for i in range(2))
    return total / weight, jax.tree.map(lambda *g: np.asarray(sum(g)) / weight, *gradients)


@functools.cache
def parameters_of(pool):
    net = network(settings(model__pool=pool))
    return jax.tree.map(np.array, jax.jit(net.new_parameters)(jnp.uint32(0)))


class Pooled(torch.nn.Module):
    """Reads the states of transformers' BERT by another pool, with a head for single labels."""

    def __init__(self, pool):
        super().__init__()
        self.bert = BertModel(HF, add_pooling_layer=False)
        self.classifier = torch.nn.Linear(HF.hidden_size, len(LABELS[SINGLE]))
        self.pool = pool

    def forward(self, labels, attention_mask, **inputs):
        states = self.bert(attention_mask=attention_mask, **inputs).last_hidden_state
        texts = [x[real] for x, real in zip(states, attention_mask.bool(), strict=True)]
        pools = {"cls": lambda x: x[0], "mean": lambda x: x.mean(0), "max": lambda x: x.max(0).values}
        logits = self.classifier(torch.stack([pools[self.pool](x) for x in texts]))
        loss = torch.nn.functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


@pytest.mark.parametrize(
    ("problem", "pair", "pool"),
    [(SINGLE, False, "pooler"), (SINGLE, True, "pooler"), (MULTI, False, "pooler"), (NUMBER, True, "pooler")]
    + [(SINGLE, True, "mean"), (SINGLE, False, "max")]
    + [pytest.param(SINGLE, False, "cls", marks=pytest.mark.sweep)],  # the token that the pooler reads
)
def test_loss_and_gradients_equal_torch_from_text_on(problem, pair, pool):
    """Covers special tokens, token types, truncation, packing, pool, head and loss at once."""
    values = settings(problem, pair, model__pool=pool)
    net, texts = network(values), examples(problem, pair)
    theirs = BertForSequenceClassification(HF_with(problem)) if pool == "pooler" else Pooled(pool)
    theirs.eval()
    randomize(theirs, 1)
    tensors = {name: t.detach().numpy() for name, t in theirs.state_dict().items()}
    parameters, report = load_weights(TABLE, tensors, net.abstract)
    assert not report.new and not report.ignored

    encoded = tokenizer()(
        [e.text for e in texts],
        [e.pair for e in texts] if pair else None,
        truncation=True,
        max_length=LENGTH,
        padding=True,
        return_token_type_ids=True,
        return_tensors="pt",
    )
    labels = torch.tensor(net.task.label_type.encode_targets(texts)[0])
    expected = theirs(**encoded, labels=labels.long() if problem == SINGLE else labels)
    expected.loss.backward()
    gradients = {name: p.grad.numpy() for name, p in theirs.named_parameters()}

    windows = LabelledTexts(values).encode(texts, net.task.labels, TextProcessor(tokenizer()), cached=False)
    loss, ours = mean_loss(net, gradient_of(net), parameters, windows)
    assert loss == pytest.approx(expected.loss.item(), rel=1e-5)
    padding = gradients["bert.embeddings.word_embeddings.weight"][0]
    assert not padding.any()  # torch gives the padding token no gradient, and no text of ours has it
    assert_gradients_equal_torch(TABLE, ours, gradients, net.abstract)

    split = Split("dev", "dev", texts, windows)
    scores = net.task.label_type.score(expected.logits.detach().numpy().astype(np.float64))
    np.testing.assert_allclose(collected(net, parameters, split), scores, atol=1e-5)


def HF_with(problem):
    names = {"id2label": dict(enumerate(LABELS[problem])), "label2id": {}}
    return BertConfig(**HF.to_dict() | {"problem_type": problem} | names)


def collected(net, parameters, split):
    """Returns the task's predictions for a split, computed by the compiled step of every verb."""
    task = net.task
    evaluator = TextEvaluator(task.labels, task.config)
    loader = make_loader(
        split.windows,
        rows=2,
        max_length=LENGTH,
        shuffle=False,
        **task.batch_spec.loader_options(),
    )
    steps = compile_eval(net, set(loader.shapes))
    placed = {name: jnp.asarray(value) for name, value in parameters.items()}
    return evaluator.collect(split, ((b, a) for b, a, _ in predict_batches(net, steps, placed, loader)))


@pytest.mark.parametrize("pool", ["pooler", pytest.param("cls", marks=pytest.mark.sweep), "mean", "max"])
def test_packed_loss_and_gradient_equal_unpacked(pool):
    values = settings(MULTI, True, model__pool=pool)
    net, parameters = network(values), parameters_of(pool)
    windows = LabelledTexts(values).encode(
        examples(MULTI, True, longest=6), net.task.labels, TextProcessor(tokenizer()), cached=False
    )
    gradient = gradient_of(net)
    packed, packed_gradient = mean_loss(net, gradient, parameters, windows, pack=True)
    unpacked, unpacked_gradient = mean_loss(net, gradient, parameters, windows, pack=False)
    np.testing.assert_allclose(packed, unpacked, rtol=1e-5)
    for name in parameters:
        tolerance = 1e-3 * np.abs(unpacked_gradient[name]).max() + 1e-6
        np.testing.assert_allclose(
            packed_gradient[name], unpacked_gradient[name], atol=tolerance, err_msg=name
        )


def test_pools_read_only_their_own_segment():
    """Equals the first, mean and largest of each segment's states; the output of a missing segment is finite."""
    values = {pool: settings(model__pool=pool) for pool in ("cls", "mean", "max")}
    nets = {pool: network(v) for pool, v in values.items()}
    net = nets["cls"]
    data = LabelledTexts(values["cls"])
    windows = data.encode(
        examples(SINGLE, False, 3, 4), net.task.labels, TextProcessor(tokenizer()), cached=False
    )
    loader = make_loader(windows, rows=1, max_length=LENGTH, **net.task.batch_spec.loader_options())
    batch = loader.batch(0).arrays
    parameters = parameters_of("cls")
    inputs = Inputs.from_batch(batch)
    states = jax.jit(lambda p: step.merge_model(net.graphdef, p).backbone(inputs), compiler_options=QUICK)(
        parameters
    )[0]
    states = np.asarray(states)
    kernel, bias = parameters["head/kernel"], parameters["head/bias"]
    pools = {"cls": lambda x: x[0], "mean": lambda x: x.mean(0), "max": lambda x: x.max(0)}
    for pool, pooled in pools.items():

        def logits_of(p, net=nets[pool]):
            return net.task.logits(step.merge_model(net.graphdef, p), batch)

        logits = jax.jit(logits_of, compiler_options=QUICK)(parameters)[0]
        for segment in range(batch["segment_ids"].max()):
            expected = pooled(states[batch["segment_ids"][0] == segment + 1]) @ kernel + bias
            np.testing.assert_allclose(logits[segment], expected, atol=1e-5)
        assert np.isfinite(logits).all()


def test_a_pooler_that_a_family_does_not_have_is_refused():
    task = SequenceClassification(LABELS[SINGLE], settings(model__pool="pooler"), head_dropout=0.0)
    with pytest.raises(
        UserError, match="DistilBERT has no pooler; expected 'cls' .which 'auto' means., 'mean' or"
    ):
        task.build_model(FAMILIES["distilbert"].config_class(), PLAIN_RUNTIME, nnx.Rngs(0))


def test_dropout_is_on_before_the_head_too():
    values = settings()
    net, parameters = network(values), parameters_of("pooler")
    windows = LabelledTexts(values).encode(
        examples(SINGLE, False), net.task.labels, TextProcessor(tokenizer()), cached=False
    )
    batch = (
        make_loader(windows, rows=2, max_length=LENGTH, **net.task.batch_spec.loader_options())
        .batch(0)
        .arrays
    )

    shape = dataclasses.replace(
        bert_config.BertConfig.from_hf(HF.to_dict()), hidden_dropout=0.0, attention_dropout=0.0
    )
    for rate, distinct in ((0.5, 3), (0.0, 1)):
        task = SequenceClassification(LABELS[SINGLE], values, head_dropout=rate)
        graph = make_network(task, shape, PLAIN_RUNTIME, make_mesh(values)).graphdef

        def loss(seed, task=task, graph=graph):
            return task.loss(step.merge_model(graph, parameters), batch, DropoutSeed(seed, jnp.int32(0)))[0]

        compiled = jax.jit(loss, compiler_options=QUICK)
        assert len({float(compiled(jnp.uint32(seed))) for seed in range(3)}) == distinct


@pytest.mark.parametrize("problem", [SINGLE, MULTI, NUMBER])
def test_r_drop_is_the_mean_of_two_passes_and_their_divergence(problem):
    """The model is a stand-in whose logits depend on the seed."""
    values = settings(problem, loss__r_drop=0.7)
    task, rng = task_of(values), np.random.default_rng(0)
    labels, _ = task.label_type.encode_targets(examples(problem, False, 6))
    batch = {
        "labels": jnp.asarray(labels.reshape(2, 3, *labels.shape[1:])),
        "weights": jnp.asarray(rng.random((2, 3)), jnp.float32),
    } | dict.fromkeys(("input_ids", "segment_ids", "positions", "token_type_ids", "starts"))
    logits = {}

    def model(*_, dropout):
        key = None if dropout is None else int(dropout.seed)
        size = (2, 3, len(task.labels))
        return logits.setdefault(key, jnp.asarray(rng.normal(size=size), jnp.float32))

    total, weight = task.loss(model, batch, DropoutSeed(jnp.uint32(1), jnp.int32(0)))
    (first, second), label_type = logits.values(), task.label_type
    losses = [label_type.loss(x, batch["labels"], batch["weights"]) for x in (first, second)]
    mean = (losses[0][0] + losses[1][0]) / 2
    expected = mean + 0.7 * label_type.divergence(first, second, batch["weights"])
    assert float(total) == pytest.approx(float(expected)) and weight == losses[0][1]
    assert float(expected) != pytest.approx(float(mean))
    task.loss(model, batch, None)
    assert len(logits) == 3  # without dropout there is only one pass


@pytest.mark.parametrize(
    ("count", "cut"),
    [
        (40, [(0, 14), (13, 27), (26, 40)]),  # in windows of 14: three, evenly spread
        (3000, [(i * 2986 // 214, i * 2986 // 214 + 14) for i in range(215)]),  # all of a long review
    ],
)
def test_a_document_has_the_mean_of_its_windows_logits(count, cut):
    values = settings(data__truncation="windows")
    net, parameters = network(values), parameters_of("pooler")
    words = random.Random(0).choices("abcdefgh", k=count)
    documents = [LabelledText(text, None, "x", "x:1") for text in (" ".join(words), "a b")]
    windows = LabelledTexts(values).encode(
        documents, net.task.labels, TextProcessor(tokenizer()), cached=False
    )
    assert windows.sentence.tolist() == [0] * len(cut) + [1]
    assert {word for a, b in cut for word in range(a, b)} == set(range(count))
    document_scores = collected(net, parameters, Split("dev", "dev", documents, windows))[0]
    pieces = [LabelledText(" ".join(words[a:b]), None, "x", "x:1") for a, b in cut]
    piece_windows = LabelledTexts(values).encode(
        pieces, net.task.labels, TextProcessor(tokenizer()), cached=False
    )
    assert windows.input_ids[: piece_windows.offsets[-1]].tolist() == piece_windows.input_ids.tolist()
    logits = np.log(collected(net, parameters, Split("dev", "dev", pieces, piece_windows)))
    np.testing.assert_allclose(
        document_scores, net.task.label_type.score(logits.mean(0, keepdims=True))[0], atol=1e-5
    )


def test_weights_smoothing_and_focus_reach_the_loss_and_labels_their_scale():
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 3)), jnp.float32)
    weights = jnp.ones((2, 3))
    for problem, labels in ((SINGLE, jnp.ones((2, 3), jnp.int32)), (MULTI, jnp.ones((2, 3, 3)))):
        losses = {
            float(task_of(settings(problem, **changed)).label_type.loss(logits, labels, weights)[0])
            for changed in ({}, {"loss__label_smoothing": 0.1}, {"loss__focal_gamma": 2.0},
                            {"loss__class_weights": (("y", 3.0),)})
        }  # fmt: skip
        assert len(losses) == 4
    number = task_of(settings(NUMBER, data__label_range=(10.0, 20.0)))
    targets, _ = number.label_type.encode_targets([LabelledText("a", None, 12.5, "x:1")])
    assert targets.tolist() == [0.25]
    assert number.label_type.score(np.array([[0.25]])).tolist() == [[12.5]]
    export = TextExport(None)
    head = export.to_transformers(number, {"head/kernel": np.array([[2.0]]), "head/bias": np.array([0.5])})
    assert (head["head/kernel"], head["head/bias"]) == (20, 15)
    head = export.to_transformers(number, {"head/kernel": np.array([[2.0]])})  # a GPT-2's, without bias
    assert (head["head/kernel"], head["head/bias"]) == (20, 10)


@pytest.mark.parametrize(
    ("problem", "labels", "changed", "message"),
    [
        (SINGLE, ["a"] * 3, {}, "the training data has 1 label: 'a'; two or more are needed"),
        (MULTI, [(), ()], {}, "the training data has 0 labels; two or more"),
        (NUMBER, [1.5] * 3, {}, "all labels of the training data are 1.5: there is nothing to learn"),
        (SINGLE, ["a", "b"], {"loss__class_weights": (("c", 2.0),)}, "class_weights names 'c', which is no label"),
        (NUMBER, [1.0, 2.0], {"loss__focal_gamma": 2.0}, "loss.focal_gamma is not for config.model.problem_type"),
    ],
)  # fmt: skip
def test_labels_that_teach_nothing_are_refused(problem, labels, changed, message):
    texts = [LabelledText("a", None, label, "x:1") for label in labels]
    with pytest.raises(UserError, match=message):
        values = settings(problem, **changed)
        data = LabelledTexts(values)
        SequenceClassification(data.make_labels(data.find_labels(texts)), values, head_dropout=0.1)
