"""Question answering from text on equals torch, packed and unpacked, and finds the answers of transformers' run_qa."""

import functools
import itertools
import json

import jax
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertForQuestionAnswering

from jaxft.data.batching.choice import make_loader
from jaxft.data.sources.questions import Answer, Question
from jaxft.errors import UserError
from jaxft.hub.processors import TextProcessor
from jaxft.hub.weights import load_weights, save_weights
from jaxft.layers.heads.kinds import HeadKind
from jaxft.layers.runtime import PLAIN_RUNTIME
from jaxft.losses import cross_entropy
from jaxft.models.bert import config as bert_config
from jaxft.models.bert.family import FAMILY
from jaxft.parallel.mesh import make_mesh
from jaxft.tasks.base import Split
from jaxft.tasks.question_answering import answer_search
from jaxft.tasks.question_answering.answer_search import Candidate, RankedAnswers
from jaxft.tasks.question_answering.data import OUTPUTS, Questions
from jaxft.tasks.question_answering.evaluation import AnswerEvaluator
from jaxft.tasks.question_answering.task import QuestionAnswering
from jaxft.training import step
from jaxft.training.network import make_network
from jaxft.training.settings import settings_from_config
from tests.data.tiny_text import tokenizer
from tests.models.parity import assert_gradients_equal_torch, randomize
from tests.tasks.tiny_bert import tiny_bert

TABLE = FAMILY.table_with_head(HeadKind.QUESTION, bert_config.BertConfig())

LENGTH = 24
QUICK = {"xla_backend_optimization_level": 0}  # compiles quickly
HF = tiny_bert(LENGTH)


def values_of(**changed):
    defaults = {
        "task": "question_answering",
        "data.max_length": LENGTH,
        "data.stride": 4,
        "data.max_segments": 4,
    }
    return settings_from_config(defaults | {key.replace("__", "."): value for key, value in changed.items()})


def task_of(values):
    return QuestionAnswering(OUTPUTS, values, head_dropout=0.0)


def questions(count=12, longest=40):
    """Returns questions of which some have contexts longer than a window, and a third have no answer."""
    rng = np.random.default_rng(3)
    out = []
    for index in range(count):
        context = " ".join(rng.choice(list("abcdefgh"), rng.integers(2, longest)))
        low = int(2 * rng.integers(0, (len(context) + 1) // 2))
        high = min(low + int(rng.choice([1, 3, 5])), len(context))
        answers = () if index % 3 == 2 else (Answer(context[low:high], low),)
        text = " ".join(rng.choice(list("abcdefgh"), rng.integers(1, 6)))
        out.append(Question(str(index), text, context, answers, f"x:{index}"))
    return out


@functools.cache
def setting():
    """Returns (settings, network, torch's model, our parameters of it, windows, compiled gradient)."""
    values = values_of()
    net = make_network(
        task_of(values), bert_config.BertConfig.from_hf(HF.to_dict()), PLAIN_RUNTIME, make_mesh(values)
    )
    theirs = BertForQuestionAnswering(HF).eval()
    randomize(theirs, 1)
    windows = Questions(values).encode(questions(), OUTPUTS, TextProcessor(tokenizer()), cached=False)

    @functools.partial(jax.jit, compiler_options=QUICK)
    def gradient(parameters, batch):
        def loss(parameters):
            return net.task.loss(step.merge_model(net.graphdef, parameters), batch, None)

        return jax.value_and_grad(loss, has_aux=True)(parameters)

    return values, net, theirs, ours_of(net, theirs.state_dict()), windows, gradient


def ours_of(net, tensors):
    """Returns torch's tensors as parameters by path, and checks that an export returns the tensors."""
    arrays = {name: tensor.detach().numpy() for name, tensor in tensors.items()}
    parameters, report = load_weights(TABLE, arrays, net.abstract)
    assert not report.new and not report.ignored
    exported = save_weights(TABLE, parameters)
    assert exported.keys() == arrays.keys()
    assert all(np.array_equal(exported[name], arrays[name]) for name in exported)
    return parameters


def mean_loss(*, pack=True):
    """Returns (loss, its gradient, weight) over all windows, from batches of one shape."""
    _, net, _, parameters, windows, gradient = setting()
    options = {
        "pack": pack,
        "buckets": [LENGTH],
        **net.task.batch_spec.loader_options(),
    }
    loader = make_loader(windows, rows=2, max_length=LENGTH, **options)
    results = [gradient(parameters, loader.batch(n).arrays) for n in range(loader.steps_per_epoch)]
    losses, gradients = zip(*results, strict=True)
    total, weight = (sum(float(loss[i]) for loss in losses) for i in range(2))
    return total / weight, jax.tree.map(lambda *g: np.asarray(sum(g)) / weight, *gradients), weight


def test_loss_and_gradients_equal_torch_from_text_on():
    """Covers windows, special tokens, token types, positions, packing, head and loss at once."""
    values, net, theirs, _, windows, _ = setting()
    examples = questions()
    spans, weights = windows.column("labels"), windows.column("weights")
    assert len(windows) > len(examples) and 0 < (spans[:, 1] > 0).sum() < len(windows)
    theirs.zero_grad()
    expected = 0.0
    encoded = tokenizer()(
        [q.question for q in examples],
        [q.context for q in examples],
        truncation="only_second",
        max_length=LENGTH,
        stride=values.data.stride,
        return_overflowing_tokens=True,
        return_token_type_ids=True,
    )
    for index, (first, last) in enumerate(spans.tolist()):
        # Each window by itself: in a padded batch torch's softmax would include the padding.
        names = ("input_ids", "token_type_ids", "attention_mask")
        inputs = {name: torch.tensor([encoded[name][index]]) for name in names}
        positions = {"start_positions": torch.tensor([first]), "end_positions": torch.tensor([last])}
        loss = theirs(**inputs, **positions).loss * weights[index] / weights.sum()
        loss.backward()
        expected += loss.item()
    loss, gradients, weight = mean_loss()
    assert weight == weights.sum() and loss == pytest.approx(expected, rel=1e-5)
    torch_gradients = {name: p.grad.numpy() for name, p in theirs.named_parameters() if p.grad is not None}
    assert_gradients_equal_torch(TABLE, gradients, torch_gradients, net.abstract)


def test_packed_loss_gradients_and_answers_equal_unpacked():
    packed, unpacked = mean_loss(), mean_loss(pack=False)
    assert packed[0] == pytest.approx(unpacked[0], rel=1e-5)
    for path, gradient in packed[1].items():
        np.testing.assert_allclose(gradient, unpacked[1][path], rtol=1e-3, atol=2e-6, err_msg=path)
    values, net, _, parameters, windows, _ = setting()
    split = Split("dev", "x", questions(), windows)

    @functools.partial(jax.jit, compiler_options=QUICK)
    def predict(parameters, batch):
        return net.task.predict(step.merge_model(net.graphdef, parameters), batch)[0]

    answers = []
    for pack in (True, False):
        options = {
            "pack": pack,
            "buckets": [LENGTH],
            **net.task.batch_spec.loader_options(),
        }
        loader = make_loader(windows, rows=2, max_length=LENGTH, shuffle=False, **options)
        batches = [loader.batch(number) for number in range(loader.steps_per_epoch)]
        outputs = [(batch, jax.device_get(predict(parameters, batch.arrays))) for batch in batches]
        answers.append(AnswerEvaluator(OUTPUTS, values).collect(split, outputs))
    for packed_answers, unpacked_answers in zip(*answers, strict=True):
        assert packed_answers.null == pytest.approx(unpacked_answers.null, abs=1e-4)
        assert spans_of(packed_answers)[:3] == spans_of(unpacked_answers)[:3]
        scores = [ranked.candidates[0].score for ranked in (packed_answers, unpacked_answers)]
        assert scores[0] == pytest.approx(scores[1], abs=1e-4)


def spans_of(ranked):
    return [(candidate.start, candidate.end) for candidate in ranked.candidates]


def test_each_segment_has_its_own_softmax():
    """Equals torch on each segment by itself. A segment without weight does not count, even if it is not finite."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 10, 2)).astype(np.float32) * 5
    segments = np.array([[1, 1, 1, 2, 2, 2, 2, 3, 3, 0], [1, 1, 1, 1, 0, 0, 0, 0, 0, 0]], np.int32)
    spans = np.array([[[1, 2], [3, 6], [7, 8]], [[0, 0], [0, 0], [0, 0]]], np.int32)
    weights = np.array([[1, 2, 0], [1, 0, 0]], np.float32)
    logits[0, 7:] = np.nan
    expected = 0.0
    for row, segment, tokens in ((0, 0, slice(0, 3)), (0, 1, slice(3, 7)), (1, 0, slice(0, 4))):
        for side in (0, 1):
            target = torch.tensor([spans[row, segment, side] - tokens.start])
            side_logits = torch.tensor(logits[row, tokens, side])[None]
            loss = torch.nn.functional.cross_entropy(side_logits, target.long())
            expected += loss.item() / 2 * weights[row, segment]

    @functools.partial(jax.jit, compiler_options=QUICK)
    def gradient_of(logits):
        loss = functools.partial(
            cross_entropy.span_cross_entropy, segment_ids=segments, spans=spans, weights=weights
        )
        return jax.value_and_grad(loss, has_aux=True)(logits)

    (total, weight), gradient = gradient_of(logits)
    assert total == pytest.approx(expected, rel=1e-5) and weight == 4
    assert np.isfinite(gradient).all() and not gradient[0, 7:].any() and not gradient[1, 4:].any()


def run_qa(logits, offsets, contexts, *, n_best, max_answer):
    """Applies the rules of `postprocess_qa_predictions` to a question of several windows.

    Args:
      offsets: None for a token that is not context.

    Returns:
      A list of ((start, end), score), and the score of no answer.
    """
    null, answers = None, []
    for window, chars in zip(logits, offsets, strict=True):
        null = window[0].sum() if null is None else min(null, window[0].sum())
        tops = [np.argsort(window[:, side])[-1 : -n_best - 1 : -1] for side in (0, 1)]
        for first in tops[0]:
            for last in tops[1]:
                if chars[first] is None or chars[last] is None:
                    continue
                if last < first or last - first + 1 > max_answer:
                    continue
                answers.append(((chars[first][0], chars[last][1]), window[first, 0] + window[last, 1]))
    return sorted(answers, key=lambda answer: -answer[1])[:n_best], null


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(1, 6))
def test_answers_equal_those_of_run_qa(seed, count, max_answer):
    rng = np.random.default_rng(seed)
    logits, offsets, windows = [], [], []
    for window in range(count):
        length, begin = int(rng.integers(8, 20)), int(rng.integers(1, 5))
        window_logits = rng.normal(size=(length, 2)) * 4
        window_logits[:begin] -= 50  # the question's tokens are not among run_qa's likeliest
        window_logits[0] += 100  # but CLS always is
        window_logits[-1] -= 50
        starts = np.array([-1] * begin + [20 * window + 2 * i for i in range(length - begin - 1)] + [-1])
        ends = np.where(starts < 0, -1, starts + 1)
        logits.append(window_logits)
        offsets.append([None if a < 0 else (a, b) for a, b in zip(starts, ends, strict=True)])
        windows.append(
            answer_search.best_in_window(window_logits, starts, ends, n_best=6, max_answer=max_answer)
        )
    ranked = answer_search.best_in_question(windows, n_best=6)
    # CLS is one of the 7 likeliest in run_qa.
    expected, null = run_qa(logits, offsets, None, n_best=7, max_answer=max_answer)
    assert ranked.null == pytest.approx(null)
    candidates = ranked.candidates
    if expected:
        span, score = expected[0]
        assert spans_of(ranked)[0] == span
        assert candidates[0].score == pytest.approx(score)
    assert candidates and len(set(spans_of(ranked))) == len(candidates) <= 6
    assert all(a.score >= b.score for a, b in itertools.pairwise(candidates))


def test_the_likeliest_pair_may_be_none_of_the_likeliest_tokens():
    """If all likely ends come before all likely starts the search takes all tokens, so there is an answer."""
    logits = np.zeros((6, 2))
    logits[5, 0], logits[1, 1] = 9, 9
    chars = np.array([-1, 0, 2, 4, 6, 8])
    ranked = answer_search.best_in_window(
        logits, chars, np.where(chars < 0, -1, chars + 1), n_best=1, max_answer=3
    )
    assert ranked.candidates == [Candidate(0, 1, 9.0)]
    nothing = answer_search.best_in_window(logits, np.full(6, -1), np.full(6, -1), n_best=1, max_answer=3)
    assert nothing.candidates == [] and nothing.null_odds == np.inf


def test_answers_have_no_white_space_around_them():
    """Tokens of byte-level tokenizers begin with the space before their word, and some are white space only."""
    question = Question("id", "who?", "by Anna  ", (), "x:1")
    ranked = RankedAnswers([Candidate(7, 9, 3.0), Candidate(2, 8, 2.0)], 0.0)
    record = answer_search.answer_record(question, ranked, None)
    assert (record["predicted_answer"], record["start"], record["end"]) == ("Anna", 3, 7)
    assert [answer["text"] for answer in record["n_best"]] == ["Anna"]


def test_answer_record_gives_none_above_the_threshold():
    question = Question("1", "q", "ab cd", None, "x:1")
    ranked = RankedAnswers([Candidate(0, 2, 2.0), Candidate(3, 5, 1.0)], 2.5)
    record = answer_search.answer_record(question, ranked, None)
    assert (record["predicted_answer"], record["start"], record["end"]) == ("ab", 0, 2)
    assert [answer["score"] for answer in record["n_best"]] == pytest.approx([0.731059, 0.268941])
    record = answer_search.answer_record(question, ranked, 0.6)  # no answer scores 0.5 more
    assert record["predicted_answer"] == "ab"
    assert [answer["text"] for answer in record["n_best"]] == ["", "ab", "cd"]
    assert sum(answer["score"] for answer in record["n_best"]) == pytest.approx(1, abs=1e-5)
    record = answer_search.answer_record(question, ranked, 0.4)
    assert (record["predicted_answer"], record["start"], record["end"]) == ("", None, None)
    assert record["score"] == record["n_best"][0]["score"]
    nothing = answer_search.answer_record(question, RankedAnswers([], 1.0), None)
    assert nothing["predicted_answer"] == ""


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


def test_the_log_tells_what_cannot_be_learnt_or_found(tmp_path):
    """Answers that no window holds, long answers, long questions, contexts of train in dev, repeated ids."""
    letters = " ".join("abcdefgh" * 6)
    short = {"id": "1", "question": "a", "context": "a b c", "answers": [{"text": "b", "answer_start": 2}]}
    spanning = {
        "question": "b",
        "context": letters,
        "answers": [{"text": letters[20:80], "answer_start": 20}],
    }
    lengthy = {"question": "c", "context": letters, "answers": [{"text": letters[:13], "answer_start": 0}]}
    wordy = short | {"id": "2", "question": "a " * 30}
    for name, records in (("train", [short, short, spanning, lengthy, wordy]), ("dev", [short, spanning])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    values, lines = values_of(eval__max_answer=5), []
    data, train = Questions(values), None
    for name in ("train", "dev"):
        source = str(tmp_path / f"{name}.jsonl")
        examples = data.read(name, source, lines.append)
        split = Split(
            name, source, examples, data.encode(examples, OUTPUTS, TextProcessor(tokenizer()), cached=False)
        )
        train = train or examples
        data.check(split, OUTPUTS, train, lines.append)
    log = "\n".join(lines)
    for line in (
        "train.jsonl: 5 questions about 2 contexts, 0 of them without an answer",
        f"train: 1 of 5 questions have the id of an earlier one: '1' (the first: {tmp_path}/train.jsonl:1 and",
        "warning: 2 of 2 questions of dev are about contexts of train",
        "warning: train: 1 of 5 questions have answers that no window holds whole; they are not trained on (a larger "
        f"config.data.stride or max_length helps); the first: {tmp_path}/train.jsonl:3",
        "warning: dev: 1 of 2 questions have answers that no window holds whole; they are scored, but can hardly",
        "train: 1 of 5 questions have answers of more than 5 tokens, which are not predicted (config.eval.max_answer)",
        "train: 1 of 5 questions are shortened, by 20 tokens at most, to half of config.data.max_length",
    ):
        assert line in log


def test_thresholds_are_tuned_where_dev_has_questions_without_answers():
    """Until then an evaluation takes the threshold that is best for itself; afterwards dev's, which may be None."""
    evaluator = AnswerEvaluator(OUTPUTS, values_of())
    examples = [Question(str(i), "a", "b c", (Answer("b", 0),) if i else (), "x") for i in range(3)]
    ranked = [RankedAnswers([Candidate(0, 1, 1.0)], null) for null in (2.0, 0.5, 0.0)]  # odds 1, -0.5, -1
    split = Split("dev", "x", examples, None)
    assert evaluator.measure(split, ranked, 0.0, 1.0).compute()["f1"] == 1
    evaluator.tune(split, ranked)
    assert evaluator.tuned == {"null_threshold": 0.25}
    other = [RankedAnswers([Candidate(0, 1, 1.0)], 1.5)] * 3
    assert evaluator.measure(split, other, 0.0, 1.0).compute()["has_answer_f1"] == 0
    answered = Split("dev", "x", examples[1:], None)
    evaluator.tune(answered, ranked[1:])
    assert evaluator.tuned == {"null_threshold": None}
    values = evaluator.measure(split, other, 0.0, 1.0).compute()
    assert values["has_answer_f1"] == 1 and values["no_answer_f1"] == 0
    assert evaluator.metric_names(split) == list(values)
    assert (
        "exact match 66.67, F1 66.67, with an answer 100.00, without 0.00, loss 0.0000"
        == evaluator.summarize(values)
    )
