"""Tests the CRF's likelihood, gradient, best paths and probabilities against all label sequences, written out."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxft.data.sources.tagged_sentences import tag_schemes
from jaxft.layers.heads import crf
from jaxft.layers.heads.crf import Chain, find_best_paths, negative_log_likelihood
from jaxft.losses.cross_entropy import cross_entropy

LENGTH = 9
SEEDS = st.integers(0, 2**32 - 1)
# One compilation a shape: [R, 9, C].
loss_and_gradients = jax.jit(
    jax.value_and_grad(
        lambda emissions, chain, labels, weights, segments: negative_log_likelihood(
            emissions, labels, weights, segments, chain
        )[0],
        (0, 1),
    )
)


def random_chain(rng, num_labels: int) -> Chain:
    shapes = ((num_labels, num_labels), (num_labels,), (num_labels,))
    return Chain(*(rng.normal(size=shape).astype(np.float32) * 2 for shape in shapes))


def pack_chains(rng, num_labels: int, rows: int = 2):
    """Makes rows of a few segments with gaps between words; also returns the row and slots of each segment's words."""
    weights, segments = np.zeros((rows, LENGTH), np.float32), np.zeros((rows, LENGTH), np.int32)
    chains = []
    for row in range(rows):
        cuts = np.sort(rng.choice(LENGTH + 1, 3, replace=False))
        for number, (a, b) in enumerate(itertools.pairwise([0, *cuts[:-1], cuts[-1]]), 1):
            segments[row, a:b] = number
            slots = a + np.flatnonzero(rng.random(b - a) < 0.6)
            weights[row, slots] = 1
            if len(slots):
                chains.append((row, slots))
    emissions = (rng.normal(size=(rows, LENGTH, num_labels)) * 3).astype(np.float32)
    labels = rng.integers(0, num_labels, (rows, LENGTH)).astype(np.int32)
    return emissions, labels, weights, segments, chains


def score_paths(emissions, chain) -> tuple[np.ndarray, np.ndarray]:
    """Returns all label sequences [P, n] for emissions [n, C], and their scores [P], in float64."""
    count, num_labels = emissions.shape
    paths = np.array(list(itertools.product(range(num_labels), repeat=count)))
    scores = emissions.astype(np.float64)[np.arange(count), paths].sum(axis=1)
    scores += np.float64(chain.start)[paths[:, 0]] + np.float64(chain.end)[paths[:, -1]]
    scores += np.float64(chain.transitions)[paths[:, :-1], paths[:, 1:]].sum(axis=1)
    return paths, scores


@settings(max_examples=40)
@given(SEEDS, st.sampled_from([2, 3]))
def test_likelihood_and_gradient_are_those_of_all_paths(seed, num_labels):
    """The gradient is expected minus observed counts of emissions, transitions, starts and ends."""
    rng = np.random.default_rng(seed)
    emissions, labels, weights, segments, chains = pack_chains(rng, num_labels)
    chain = random_chain(rng, num_labels)
    expected_loss, d_emissions = 0.0, np.zeros(emissions.shape)
    d_chain = Chain(*(np.zeros(scores.shape) for scores in chain))
    for row, slots in chains:
        paths, scores = score_paths(emissions[row, slots], chain)
        gold = labels[row, slots]
        probability = np.exp(scores - np.logaddexp.reduce(scores))
        probability[(paths == gold).all(axis=1)] -= 1
        expected_loss += np.logaddexp.reduce(scores) - scores[(paths == gold).all(axis=1)][0]
        np.add.at(d_emissions[row], (slots, paths), probability[:, None])
        np.add.at(d_chain.start, paths[:, 0], probability)
        np.add.at(d_chain.end, paths[:, -1], probability)
        np.add.at(d_chain.transitions, (paths[:, :-1], paths[:, 1:]), probability[:, None])
    loss, gradients = loss_and_gradients(emissions, chain, labels, weights, segments)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(gradients[0], d_emissions, atol=1e-5)
    for actual, expected in zip(gradients[1], d_chain, strict=True):
        np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_likelihood_and_gradients_are_torchs():
    """Compares with the forward algorithm in float64 and its autograd, for more labels than all paths allow."""
    rng = np.random.default_rng(4)
    emissions, labels, weights, segments, chains = pack_chains(rng, 6, rows=8)
    chain = random_chain(rng, 6)
    theirs = [torch.tensor(values, dtype=torch.float64, requires_grad=True) for values in (emissions, *chain)]
    scores, transitions, start, end = theirs
    expected_loss = 0
    for row, slots in chains:
        words, gold = scores[row, slots], torch.tensor(labels[row, slots]).long()
        alpha = start + words[0]
        for word in words[1:]:
            alpha = torch.logsumexp(alpha[:, None] + transitions, 0) + word
        path = words[range(len(gold)), gold].sum() + transitions[gold[:-1], gold[1:]].sum()
        expected_loss += torch.logsumexp(alpha + end, 0) - path - start[gold[0]] - end[gold[-1]]
    expected_loss.backward()
    loss, (d_emissions, d_chain) = loss_and_gradients(emissions, chain, labels, weights, segments)
    assert len(chains) > 8 and max(len(slots) for _, slots in chains) > 3
    np.testing.assert_allclose(loss, expected_loss.item(), rtol=1e-6)
    for ours, expected in zip((d_emissions, *d_chain), theirs, strict=True):
        np.testing.assert_allclose(ours, expected.grad.numpy(), atol=1e-5)


@settings(max_examples=60)
@given(SEEDS, st.lists(st.integers(0, 5), min_size=1, max_size=5), st.booleans())
def test_best_paths_and_probabilities_are_those_of_all_paths(seed, lengths, constrained):
    rng = np.random.default_rng(seed)
    labels = ["O", "B-X", "I-X"]
    chain = random_chain(rng, 3)
    if constrained:
        start, transitions = tag_schemes.find_allowed_transitions(labels)
        chain = chain._replace(
            start=np.where(start, chain.start, -np.inf),
            transitions=np.where(transitions, chain.transitions, -np.inf),
        )
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    emissions = (rng.normal(size=(offsets[-1], 3)) * 3).astype(np.float32)
    path, probabilities = find_best_paths(emissions, offsets, chain)
    assert path.dtype == np.int32 and probabilities.dtype == np.float32
    for first, last in itertools.pairwise(offsets):
        if first == last:
            continue
        paths, scores = score_paths(emissions[first:last], chain)
        best = paths[scores.argmax()]
        assert path[first:last].tolist() == best.tolist()
        share = np.exp(scores - np.logaddexp.reduce(scores))
        expected = [(share * (paths[:, at] == best[at])).sum() for at in range(last - first)]
        np.testing.assert_allclose(probabilities[first:last], expected, atol=1e-5)


def test_many_sentences_and_long_ones(monkeypatch):
    """Paths are the best in float64 too, streams change nothing, and constraints hold against strong emissions."""
    rng = np.random.default_rng(0)
    labels = ["O", "B-X", "I-X", "B-Y", "I-Y"]
    start, transitions = tag_schemes.find_allowed_transitions(labels)
    scores = rng.normal(size=(5, 5))
    chain = Chain(np.where(transitions, scores, -np.inf), np.where(start, scores[0], -np.inf), scores[1])
    lengths = rng.integers(0, 40, 700)
    lengths[7] = 3000
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    emissions = rng.normal(size=(offsets[-1], 5)).astype(np.float32)
    emissions[:, [2, 4]] += 500 * (rng.random((offsets[-1], 2)) < 0.5)
    best_labels, probabilities = find_best_paths(emissions, offsets, chain)
    assert ((probabilities >= 0) & (probabilities <= 1)).all()
    assert (np.isin(best_labels, [2, 4])).mean() > 0.3
    for first, last in itertools.pairwise(offsets):
        if first == last:
            continue
        path, words = best_labels[first:last], emissions[first:last].astype(np.float64)
        names = [labels[i] for i in path]
        assert tag_schemes.convert_tags_to_iob2(names, "iob2") == (names, [])
        best = chain.start + words[0]
        for emission in words[1:]:
            best = (best[:, None] + chain.transitions).max(axis=0) + emission
        score = chain.start[path[0]] + words[np.arange(len(words)), path].sum() + chain.end[path[-1]]
        score += chain.transitions[path[:-1], path[1:]].sum()
        np.testing.assert_allclose(score, (best + chain.end).max(), rtol=1e-9)

    monkeypatch.setattr(crf, "_STREAMS", 7)
    monkeypatch.setattr(crf, "_STRETCH", 50)
    crf.compile_best_paths.cache_clear()
    label, probability = find_best_paths(emissions, offsets, chain)
    crf.compile_best_paths.cache_clear()
    np.testing.assert_array_equal(label, best_labels)
    np.testing.assert_allclose(probability, probabilities, atol=1e-5)


def test_packing_padding_and_what_has_no_weight_change_nothing():
    """Puts each chain into a row of its own, with other labels and broken numbers where no words are."""
    rng = np.random.default_rng(3)
    emissions, labels, weights, segments, chains = pack_chains(rng, 4, rows=6)
    chain = random_chain(rng, 4)
    loss, gradients = loss_and_gradients(emissions, chain, labels, weights, segments)

    alone = [
        np.zeros((len(chains), LENGTH, *a.shape[2:]), a.dtype) for a in (emissions, labels, weights, segments)
    ]
    for index, (row, slots) in enumerate(chains):
        for array, source in zip(alone, (emissions, labels, weights, segments), strict=True):
            array[index, 2 : 2 + len(slots)] = source[row, slots]
    alone[0][alone[2] == 0] = np.array([np.nan, np.inf, -np.inf, 1e30], np.float32)
    alone[1][alone[2] == 0] = 3
    other, other_gradients = loss_and_gradients(alone[0], chain, *alone[1:])
    np.testing.assert_allclose(loss, other, rtol=1e-6)
    for a, b in zip(gradients[1], other_gradients[1], strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert not np.asarray(other_gradients[0])[alone[2] == 0].any()
    for index, (row, slots) in enumerate(chains):
        np.testing.assert_allclose(
            gradients[0][row, slots], other_gradients[0][index, 2 : 2 + len(slots)], atol=1e-5
        )
    empty = negative_log_likelihood(emissions, labels, 0 * weights, segments, chain)
    assert (float(empty[0]), float(empty[1])) == (0, 0)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_without_chain_scores_it_is_the_softmax(dtype):
    rng = np.random.default_rng(1)
    emissions, labels, weights, segments, _ = pack_chains(rng, 4, rows=6)
    emissions = jnp.asarray(emissions, dtype)
    zero = Chain(jnp.zeros((4, 4)), jnp.zeros(4), jnp.zeros(4))
    ours = negative_log_likelihood(emissions, labels, weights, segments, zero)
    theirs = cross_entropy(emissions, labels, weights)
    assert ours[0].dtype == jnp.float32
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    flat = np.asarray(emissions, np.float32).reshape(-1, 4)
    best, probability = find_best_paths(flat, np.array([0, 20, len(flat)]), Chain(*map(np.asarray, zero)))
    softmax = np.asarray(jax.nn.softmax(flat))
    assert best.tolist() == flat.argmax(axis=1).tolist()
    np.testing.assert_allclose(probability, softmax.max(axis=1), rtol=1e-5)


def test_long_chains_keep_their_precision():
    """Compares 512 words with scores in the hundreds with float64."""
    rng = np.random.default_rng(2)
    count = 512
    emissions = (rng.normal(size=(1, count, 5)) * 30 + 200).astype(np.float32)
    chain = random_chain(rng, 5)
    labels = emissions.argmax(axis=-1).astype(np.int32)
    ones = np.ones((1, count))
    loss, _ = jax.jit(negative_log_likelihood)(
        emissions, labels, ones.astype(np.float32), ones.astype(np.int32), chain
    )
    alpha = chain.start.astype(np.float64) + emissions[0, 0]
    path = alpha[labels[0, 0]]
    for at in range(1, count):
        alpha = np.logaddexp.reduce(alpha[:, None] + chain.transitions, axis=0) + emissions[0, at]
        path += chain.transitions[labels[0, at - 1], labels[0, at]] + np.float64(
            emissions[0, at, labels[0, at]]
        )
    expected = np.logaddexp.reduce(alpha + chain.end) - path - chain.end[labels[0, -1]]
    assert expected > 1
    np.testing.assert_allclose(loss, expected, rtol=1e-4)
