"""Question answering from text on: torch's loss and gradients, the same packed and unpacked, run_qa's answers."""

import functools
import json

import jax
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertConfig, BertForQuestionAnswering

from jaxft.data.batching.choice import make_loader
from jaxft.data.sources.questions import Answer, Question
from jaxft.errors import UserError
from jaxft.hub.weights import load_weights, save_weights
from jaxft.losses import cross_entropy
from jaxft.models.bert import config as bert_config
from jaxft.models.bert import weights as bert_weights
from jaxft.parallel.mesh import make_mesh
from jaxft.tasks.base import Split
from jaxft.tasks.question_answering import answer_search
from jaxft.tasks.question_answering.answer_search import Candidate, RankedAnswers
from jaxft.tasks.question_answering.task import QuestionAnswering
from jaxft.training import step
from jaxft.training.network import make_network
from jaxft.training.settings import settings_from_config
from tests.data.tiny_text import VOCABULARY, tokenizer
from tests.models.parity import assert_gradients_are_torchs, randomize

LENGTH = 24
QUICK = {"xla_backend_optimization_level": 0}  # to compile
HF = BertConfig(
    vocab_size=len(VOCABULARY),
    hidden_size=24,
    num_hidden_layers=2,
    num_attention_heads=3,
    intermediate_size=40,
    max_position_embeddings=LENGTH,
    initializer_range=0.2,
    hidden_dropout_prob=0.2,
    attention_probs_dropout_prob=0.2,
)


def values_of(**changed):
    given = {
        "task": "question_answering",
        "data.max_length": LENGTH,
        "data.stride": 4,
        "data.max_segments": 4,
    }
    return settings_from_config(given | {key.replace("__", "."): value for key, value in changed.items()})


def task_of(values):
    return QuestionAnswering([], config=values)


def questions(count=12, longest=40):
    """Some contexts longer than a window, a third of the questions without an answer."""
    rng = np.random.default_rng(3)
    found = []
    for index in range(count):
        context = " ".join(rng.choice(list("abcdefgh"), rng.integers(2, longest)))
        low = int(2 * rng.integers(0, (len(context) + 1) // 2))
        high = min(low + int(rng.choice([1, 3, 5])), len(context))
        answers = () if index % 3 == 2 else (Answer(context[low:high], low),)
        text = " ".join(rng.choice(list("abcdefgh"), rng.integers(1, 6)))
        found.append(Question(str(index), text, context, answers, f"x:{index}"))
    return found


@functools.cache
def setting():
    """(values, network, torch's model, our parameters of it, its windows, compiled gradient)."""
    values = values_of()
    net = make_network(
        task_of(values), bert_config.read_sizes(HF.to_dict()) | {"unroll": False}, make_mesh(values)
    )
    theirs = BertForQuestionAnswering(HF).eval()
    randomize(theirs, 1)
    windows = net.task.encode(questions(), tokenizer(), values, cached=False)

    @functools.partial(jax.jit, compiler_options=QUICK)
    def gradient(parameters, batch):
        def loss(parameters):
            return net.task.loss(step.merge_model(net.graphdef, parameters), batch, None)

        return jax.value_and_grad(loss, has_aux=True)(parameters)

    return values, net, theirs, ours_of(net, theirs.state_dict()), windows, gradient


def ours_of(net, tensors):
    """Parameters by path; the head stands where an export puts it."""
    arrays = {name: tensor.detach().numpy() for name, tensor in tensors.items()}
    renamed = {name.replace("qa_outputs", "classifier"): value for name, value in arrays.items()}
    found, report = load_weights(bert_weights.TABLE, renamed, net.abstract)
    assert not report.new and not report.ignored
    back = save_weights(bert_weights.TABLE, net.task.to_transformers(found))
    assert back.keys() == arrays.keys() and all(np.array_equal(back[name], arrays[name]) for name in back)
    return found


def mean_loss(*, pack=True):
    """(loss, its gradient, weight) over all windows, from batches of one shape of the loader."""
    _, net, _, parameters, windows, gradient = setting()
    options = {
        "pack": pack,
        "buckets": [LENGTH],
        "arrays": net.task.arrays,
        "segments": net.task.max_segments,
    }
    loader = make_loader(windows, rows=2, max_length=LENGTH, pad_id=0, **options)
    found = [gradient(parameters, loader.batch(n).arrays) for n in range(loader.steps_per_epoch)]
    total, weight = (sum(float(f[0][i]) for f in found) for i in range(2))
    return (
        total / weight,
        jax.tree.map(lambda *g: np.asarray(sum(g)) / weight, *(f[1] for f in found)),
        weight,
    )


def test_loss_and_gradients_are_torchs_from_text_on():
    """Windows, special tokens, token types, positions, packing, head and loss, all at once."""
    values, net, theirs, _, windows, _ = setting()
    found = questions()
    spans, weights = windows.column("labels"), windows.column("weights")
    assert len(windows) > len(found) and 0 < (spans[:, 1] > 0).sum() < len(windows)
    theirs.zero_grad()
    wanted = 0.0
    encoded = tokenizer()(
        [q.question for q in found],
        [q.context for q in found],
        truncation="only_second",
        max_length=LENGTH,
        stride=values.data.stride,
        return_overflowing_tokens=True,
        return_token_type_ids=True,
    )
    for index, (first, last) in enumerate(spans.tolist()):
        # One at a time: in a padded batch torch's softmax would be over the padding too.
        names = ("input_ids", "token_type_ids", "attention_mask")
        inputs = {name: torch.tensor([encoded[name][index]]) for name in names}
        positions = {"start_positions": torch.tensor([first]), "end_positions": torch.tensor([last])}
        loss = theirs(**inputs, **positions).loss * weights[index] / weights.sum()
        loss.backward()
        wanted += loss.item()
    loss, gradients, weight = mean_loss()
    assert weight == weights.sum() and loss == pytest.approx(wanted, rel=1e-5)
    torchs = {
        name.replace("qa_outputs", "classifier"): p.grad.numpy()
        for name, p in theirs.named_parameters()
        if p.grad is not None
    }
    assert_gradients_are_torchs(bert_weights.TABLE, gradients, torchs, net.abstract)


def test_packed_is_unpacked():
    """Loss, gradients and answers."""
    packed, unpacked = mean_loss(), mean_loss(pack=False)
    assert packed[0] == pytest.approx(unpacked[0], rel=1e-5)
    for path, gradient in packed[1].items():
        np.testing.assert_allclose(gradient, unpacked[1][path], rtol=1e-3, atol=2e-6, err_msg=path)
    _, net, _, parameters, windows, _ = setting()
    split = Split("dev", "x", questions(), windows)

    @functools.partial(jax.jit, compiler_options=QUICK)
    def predict(parameters, batch):
        return net.task.predict(step.merge_model(net.graphdef, parameters), batch)[0]

    found = []
    for pack in (True, False):
        options = {
            "pack": pack,
            "buckets": [LENGTH],
            "arrays": net.task.arrays,
            "segments": net.task.max_segments,
        }
        loader = make_loader(windows, rows=2, max_length=LENGTH, pad_id=0, shuffle=False, **options)
        batches = [loader.batch(number) for number in range(loader.steps_per_epoch)]
        outputs = [(batch, jax.device_get(predict(parameters, batch.arrays))) for batch in batches]
        found.append(net.task.collect(split, outputs))
    for one, other in zip(*found, strict=True):
        assert one.null == pytest.approx(other.null, abs=1e-4)
        assert [c[:2] for c in one.candidates[:3]] == [c[:2] for c in other.candidates[:3]]
        assert one.candidates[0].score == pytest.approx(other.candidates[0].score, abs=1e-4)


def test_segments_have_a_softmax_of_their_own():
    """Against torch on each segment by itself; one without weight counts for nothing, even if it is not finite."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 10, 2)).astype(np.float32) * 5
    segments = np.array([[1, 1, 1, 2, 2, 2, 2, 3, 3, 0], [1, 1, 1, 1, 0, 0, 0, 0, 0, 0]], np.int32)
    spans = np.array([[[1, 2], [3, 6], [7, 8]], [[0, 0], [0, 0], [0, 0]]], np.int32)
    weights = np.array([[1, 2, 0], [1, 0, 0]], np.float32)
    logits[0, 7:] = np.nan
    wanted = 0.0
    for row, segment, part in ((0, 0, slice(0, 3)), (0, 1, slice(3, 7)), (1, 0, slice(0, 4))):
        for side in (0, 1):
            at = torch.tensor([spans[row, segment, side] - part.start])
            one = torch.nn.functional.cross_entropy(torch.tensor(logits[row, part, side])[None], at.long())
            wanted += one.item() / 2 * weights[row, segment]

    @functools.partial(jax.jit, compiler_options=QUICK)
    def gradient_of(logits):
        loss = functools.partial(
            cross_entropy.span_cross_entropy, segment_ids=segments, spans=spans, weights=weights
        )
        return jax.value_and_grad(loss, has_aux=True)(logits)

    (total, weight), gradient = gradient_of(logits)
    assert total == pytest.approx(wanted, rel=1e-5) and weight == 4
    assert np.isfinite(gradient).all() and not gradient[0, 7:].any() and not gradient[1, 4:].any()


def run_qa(logits, offsets, contexts, *, n_best, max_answer):
    """The rules of `postprocess_qa_predictions` for a question of several windows: ((start, end), score), null score.

    offsets: None where a token isn't context.
    """
    null, found = None, []
    for window, chars in zip(logits, offsets, strict=True):
        null = window[0].sum() if null is None else min(null, window[0].sum())
        tops = [np.argsort(window[:, side])[-1 : -n_best - 1 : -1] for side in (0, 1)]
        for first in tops[0]:
            for last in tops[1]:
                if chars[first] is None or chars[last] is None:
                    continue
                if last < first or last - first + 1 > max_answer:
                    continue
                found.append(((chars[first][0], chars[last][1]), window[first, 0] + window[last, 1]))
    return sorted(found, key=lambda item: -item[1])[:n_best], null


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(1, 6))
def test_answers_are_those_of_run_qa(seed, count, max_answer):
    rng = np.random.default_rng(seed)
    logits, offsets, windows = [], [], []
    for window in range(count):
        length, begin = int(rng.integers(8, 20)), int(rng.integers(1, 5))
        one = rng.normal(size=(length, 2)) * 4
        one[:begin] -= 50  # so that the question's tokens are not among run_qa's likeliest
        one[0] += 100  # and CLS always is
        one[-1] -= 50
        starts = np.array([-1] * begin + [20 * window + 2 * i for i in range(length - begin - 1)] + [-1])
        ends = np.where(starts < 0, -1, starts + 1)
        logits.append(one)
        offsets.append([None if a < 0 else (a, b) for a, b in zip(starts, ends, strict=True)])
        windows.append(answer_search.best_in_window(one, starts, ends, n_best=6, max_answer=max_answer))
    found = answer_search.best_in_question(windows, n_best=6)
    wanted, null = run_qa(
        logits, offsets, None, n_best=7, max_answer=max_answer
    )  # CLS is one of its likeliest
    assert found.null == pytest.approx(null)
    best: dict = {}
    for span, score in wanted:
        best.setdefault(span, score)
    if wanted:
        assert found.candidates[0][:2] == wanted[0][0]
        assert found.candidates[0].score == pytest.approx(wanted[0][1])
    assert found.candidates and len({c[:2] for c in found.candidates}) == len(found.candidates) <= 6
    assert all(a.score >= b.score for a, b in zip(found.candidates, found.candidates[1:], strict=False))


def test_the_likeliest_pair_may_be_none_of_the_likeliest_tokens():
    """Where all likely ends stand before all likely starts the others are looked at, so that there is an answer."""
    logits = np.zeros((6, 2))
    logits[5, 0], logits[1, 1] = 9, 9
    chars = np.array([-1, 0, 2, 4, 6, 8])
    found = answer_search.best_in_window(
        logits, chars, np.where(chars < 0, -1, chars + 1), n_best=1, max_answer=3
    )
    assert found.candidates == [Candidate(0, 1, 9.0)]
    nothing = answer_search.best_in_window(logits, np.full(6, -1), np.full(6, -1), n_best=1, max_answer=3)
    assert nothing.candidates == [] and nothing.null_odds == np.inf


def test_what_is_said_of_a_question():
    one = Question("1", "q", "ab cd", None, "x:1")
    found = RankedAnswers([Candidate(0, 2, 2.0), Candidate(3, 5, 1.0)], 2.5)
    said = answer_search.answer_record(one, found, None)
    assert (said["predicted_answer"], said["start"], said["end"]) == ("ab", 0, 2)
    assert [c["score"] for c in said["n_best"]] == pytest.approx([0.731059, 0.268941])
    said = answer_search.answer_record(one, found, 0.6)  # no answer scores 0.5 more
    assert said["predicted_answer"] == "ab" and [c["text"] for c in said["n_best"]] == ["", "ab", "cd"]
    assert sum(c["score"] for c in said["n_best"]) == pytest.approx(1, abs=1e-5)
    said = answer_search.answer_record(one, found, 0.4)
    assert (said["predicted_answer"], said["start"], said["end"]) == ("", None, None)
    assert said["score"] == said["n_best"][0]["score"]
    assert answer_search.answer_record(one, RankedAnswers([], 1.0), None)["predicted_answer"] == ""


def test_settings_of_labels_are_refused():
    for key, value in (("label_smoothing", 0.1), ("focal_gamma", 2.0), ("class_weights", (("start", 2.0),))):
        with pytest.raises(
            UserError,
            match=f"config.loss.{key} is a setting of token_classification and sequence_classification",
        ):
            task_of(values_of(**{f"loss__{key}": value}))
    for key in ("n_best", "max_answer"):
        with pytest.raises(UserError, match=f"config.eval.{key}=0: expected 1 or more"):
            values_of(**{f"eval__{key}": 0})


def test_what_cannot_be_learnt_or_found_is_told(tmp_path):
    """Answers that no window holds, long answers, long questions, contexts of train in dev, ids that stand twice."""
    letters = " ".join("abcdefgh" * 6)
    one = {"id": "1", "question": "a", "context": "a b c", "answers": [{"text": "b", "answer_start": 2}]}
    spanning = {
        "question": "b",
        "context": letters,
        "answers": [{"text": letters[20:80], "answer_start": 20}],
    }
    lengthy = {"question": "c", "context": letters, "answers": [{"text": letters[:13], "answer_start": 0}]}
    wordy = one | {"id": "2", "question": "a " * 30}
    for name, records in (("train", [one, one, spanning, lengthy, wordy]), ("dev", [one, spanning])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    values, said = values_of(eval__max_answer=5), []
    task, train = task_of(values), None
    for name in ("train", "dev"):
        source = str(tmp_path / f"{name}.jsonl")
        found = task.read(values, name, source, said.append)
        split = Split(name, source, found, task.encode(found, tokenizer(), values, cached=False))
        train = train or found
        task.check(split, train, said.append)
    said = "\n".join(said)
    for line in (
        "train.jsonl: 5 questions about 2 contexts, 0 of them without an answer",
        "warning: train: 1 questions have another one's id",
        "warning: 2 of 2 questions of dev are about contexts of train",
        "warning: train: 1 of 5 questions have answers that no window holds whole; they are not trained on (a larger "
        f"config.data.stride or max_length helps); the first: {tmp_path}/train.jsonl:3",
        "warning: dev: 1 of 2 questions have answers that no window holds whole; they are scored, but can hardly",
        "train: 1 of 5 questions have answers of more than 5 tokens, which are not predicted (config.eval.max_answer)",
        "train: 1 of 5 questions are shortened, by 20 tokens at most, to half of config.data.max_length",
    ):
        assert line in said


def test_thresholds_are_tuned_where_dev_has_questions_without_answers():
    """Until then an evaluation takes the best one for itself; afterwards all take dev's, which may be none."""
    task = task_of(values_of())
    some = [Question(str(i), "a", "b c", (Answer("b", 0),) if i else (), "x") for i in range(3)]
    found = [RankedAnswers([Candidate(0, 1, 1.0)], null) for null in (2.0, 0.5, 0.0)]  # odds 1, -0.5, -1
    split = Split("dev", "x", some, None)
    assert task.measure(split, found, 0.0, 1.0).compute()["f1"] == 1
    task.tune(split, found)
    assert task.tuned == {"null_threshold": 0.25}
    other = [RankedAnswers([Candidate(0, 1, 1.0)], 1.5)] * 3
    assert task.measure(split, other, 0.0, 1.0).compute()["has_answer_f1"] == 0
    answered = Split("dev", "x", some[1:], None)
    task.tune(answered, found[1:])
    assert task.tuned == {"null_threshold": None}
    values = task.measure(split, other, 0.0, 1.0).compute()
    assert values["has_answer_f1"] == 1 and values["no_answer_f1"] == 0
    assert task.metric_names(split) == list(values)
    assert "exact match 66.67, F1 66.67, with an answer 100.00, without 0.00, loss 0.0000" == task.summarize(
        values
    )
