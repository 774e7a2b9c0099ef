"""Generation equals torch's `generate` token for token; samples have the right shares, whatever else is in a batch."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
import torch
from flax import nnx
from transformers import GPT2Config, GPT2LMHeadModel

from jaxft.errors import UserError
from jaxft.generation import beam, sampling
from jaxft.generation.generator import Generator, round_up_shape
from jaxft.generation.options import GenerationOptions
from jaxft.hub.weights import load_weights
from jaxft.layers import parameter_paths
from jaxft.models.gpt2 import config as gpt2_config
from jaxft.models.gpt2 import weights as gpt2_weights
from jaxft.models.gpt2.network import GPT2

VOCABULARY, POSITIONS, EOS = 23, 128, 5
PROMPTS = [[1, 2, 3], [7], list(range(6, 22)), [4, 4, 9, 4, 4, 9, 4], [11, 0]]


@functools.cache
def models(seed: int = 1, **fields) -> tuple[GPT2LMHeadModel, GPT2]:
    """Returns one random network in torch and in jax; wide initial values make texts neither constant nor endless."""
    sizes = {"vocab_size": VOCABULARY, "n_positions": POSITIONS, "n_embd": 32, "n_layer": 2, "n_head": 4}
    ends = {"bos_token_id": EOS, "eos_token_id": EOS}
    config = GPT2Config(initializer_range=0.25, **sizes | ends | fields)
    torch.manual_seed(seed)
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    shape = gpt2_config.GPT2Config.from_hf(config.to_dict())
    graph, state = nnx.split(nnx.eval_shape(lambda: nnx.Dict(backbone=GPT2(shape, rngs=nnx.Rngs(0)))))
    tensors = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    parameters, _ = load_weights(
        gpt2_weights.TABLE, tensors, parameter_paths.flatten(nnx.to_pure_dict(state))
    )
    return model, nnx.merge(graph, parameter_paths.unflatten(jax.tree.map(jnp.asarray, parameters))).backbone


@functools.cache
def generator(eos: int | None = EOS, **fields) -> Generator:
    return Generator(models(**fields)[1], eos=eos)


def torch_ids(prompts, fields, *, samples=1, eos=EOS, **options) -> list[list[list[int]]]:
    """Returns what torch generates for prompts padded on the left, without padding and the end of text."""
    length = max(map(len, prompts))
    ids = torch.zeros(len(prompts), length, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, length - len(prompt) :] = torch.tensor(prompt)
        mask[row, length - len(prompt) :] = 1
    rows = (
        models(**fields)[0]
        .generate(
            ids,
            attention_mask=mask,
            eos_token_id=eos,
            pad_token_id=VOCABULARY - 1 if eos is None else eos,
            num_return_sequences=samples,
            do_sample=False,
            **options,
        )[:, length:]
        .tolist()
    )
    texts = [row[: row.index(eos)] if eos in row else row for row in rows]
    return [texts[i : i + samples] for i in range(0, len(texts), samples)]


def ids(outputs) -> list[list[list[int]]]:
    return [[output.ids for output in samples] for samples in outputs]


# Networks that are searched without penalties: other weights, and another shape of attention.
OTHERS = [
    {"seed": 2},
    {"seed": 3, "n_layer": 3, "n_head": 2, "n_embd": 48},
    {"scale_attn_by_inverse_layer_idx": True},
]
GREEDY = {
    "plain": ({}, {}),
    "repetition": ({"repetition_penalty": 1.4}, {"repetition_penalty": 1.4}),
    "ngrams": ({"no_repeat_ngram_size": 2}, {"no_repeat_ngram": 2}),
    "both": (
        {"repetition_penalty": 0.8, "no_repeat_ngram_size": 3},
        {"repetition_penalty": 0.8, "no_repeat_ngram": 3},
    ),
}


@pytest.mark.parametrize(
    ("case", "fields"), [*((case, {}) for case in GREEDY), *(("plain", fields) for fields in OTHERS)]
)
def test_greedy_search_is_torchs_token_for_token(case, fields):
    theirs, ours = GREEDY[case]
    expected = torch_ids(PROMPTS, fields, max_new_tokens=50, **theirs)
    assert (
        ids(generator(**fields).generate(PROMPTS, GenerationOptions(max_new_tokens=50, **ours))) == expected
    )
    lengths = {len(text) for (text,) in expected}
    assert len(lengths) > 1 or case == "plain"  # some end early


BEAMS = {
    "plain": ({"num_beams": 4}, {"beams": 4}),
    "long": ({"num_beams": 3, "length_penalty": 2.0}, {"beams": 3, "length_penalty": 2.0}),
    "short": (
        {"num_beams": 3, "length_penalty": -1.0, "repetition_penalty": 1.5, "no_repeat_ngram_size": 2},
        {"beams": 3, "length_penalty": -1.0, "repetition_penalty": 1.5, "no_repeat_ngram": 2},
    ),
    "early": (
        {"num_beams": 4, "length_penalty": 1.5, "early_stopping": True},
        {"beams": 4, "length_penalty": 1.5, "early_stopping": True},
    ),
}


@pytest.mark.parametrize(
    ("case", "eos", "fields"),
    [
        *((case, EOS, {}) for case in BEAMS),
        ("plain", None, {}),
        *(pytest.param("plain", EOS, fields, marks=pytest.mark.sweep) for fields in OTHERS),
    ],
)
def test_beam_search_is_torchs_token_for_token(case, eos, fields):
    theirs, ours = BEAMS[case]
    options = GenerationOptions(max_new_tokens=20, samples=3, **ours)
    outputs = generator(eos, **fields).generate(PROMPTS, options)
    assert ids(outputs) == torch_ids(PROMPTS, fields, samples=3, eos=eos, max_new_tokens=20, **theirs)
    for samples in outputs:
        assert [o.score for o in samples] == sorted((o.score for o in samples), reverse=True)
    if case == "early":  # a prompt alone is what it is among others
        assert ids(generator(eos).generate(PROMPTS[3:4], options)) == ids(outputs)[3:4]


def next_token_shares(prompt: list[int]) -> np.ndarray:
    """Returns the probabilities of the next token, by torch."""
    with torch.no_grad():
        return models()[0](torch.tensor([prompt])).logits[0, -1].softmax(dim=0).double().numpy()


def p_value(counts: np.ndarray, shares: np.ndarray) -> float:
    """Returns the p-value of a chi-square test; tokens expected less than five times count as one."""
    expected = shares / shares.sum() * counts.sum()
    rare = expected < 5
    if rare.any():
        counts, expected = (np.append(x[~rare], x[rare].sum()) for x in (counts, expected))
    keep = expected > 0
    assert counts[~keep].sum() == 0
    return scipy.stats.chisquare(counts[keep], expected[keep] * counts.sum() / expected[keep].sum()).pvalue


@pytest.mark.parametrize("options", [{"temperature": 2.0}, {"top_k": 6, "top_p": 0.8}, {"min_p": 0.1}])
def test_samples_have_the_networks_probabilities(options):
    options = {"temperature": 1.0} | options
    outputs = generator(None).generate(
        [PROMPTS[0]], GenerationOptions(max_new_tokens=2, samples=2048, **options)
    )
    drawn = np.array([output.ids for output in outputs[0]])

    def shares(prompt: list[int]) -> np.ndarray:
        shares = next_token_shares(prompt) ** (1 / options["temperature"])
        order = np.argsort(-shares)
        if "top_k" in options:
            shares[order[options["top_k"] :]] = 0
        shares /= shares.sum()
        if "top_p" in options:
            before = np.cumsum(shares[order]) - shares[order]
            shares[order[before >= options["top_p"]]] = 0
        if "min_p" in options:
            shares[shares < options["min_p"] * shares.max()] = 0
        return shares / shares.sum()

    first = np.bincount(drawn[:, 0], minlength=VOCABULARY)
    assert p_value(first, shares(PROMPTS[0])) > 1e-3
    likeliest = int(first.argmax())
    second = np.bincount(drawn[drawn[:, 0] == likeliest, 1], minlength=VOCABULARY)
    assert p_value(second, shares([*PROMPTS[0], likeliest])) > 1e-3


def test_a_sample_depends_on_seed_prompt_sample_and_step_and_on_nothing_else():
    options = GenerationOptions(max_new_tokens=12, temperature=1.5, samples=3, seed=4)
    texts_of_all = ids(generator(None).generate(PROMPTS, options))
    assert texts_of_all == ids(generator(None).generate(PROMPTS, options))
    assert texts_of_all[2:3] == ids(generator(None).generate(PROMPTS[2:3], options, first_number=2))
    shorter = ids(generator(None).generate(PROMPTS, dataclasses.replace(options, max_new_tokens=7)))
    assert [[text[:7] for text in texts] for texts in texts_of_all] == shorter
    other_seed = ids(generator(None).generate(PROMPTS, dataclasses.replace(options, seed=5)))
    texts = {tuple(text) for run in (texts_of_all, other_seed) for samples in run for text in samples}
    assert len(texts) == 2 * len(PROMPTS) * 3
    # The same prompt twice draws twice.
    twice = ids(generator(None).generate([[1], [1]], options))
    assert twice[0] != twice[1]


def test_streaming_gives_in_pieces_what_generate_gives_at_once():
    options = GenerationOptions(max_new_tokens=20, no_repeat_ngram=2)
    pieces = [ids(outputs) for outputs in generator().stream(PROMPTS, options, interval=3)]
    assert pieces[-1] == ids(generator().generate(PROMPTS, options))
    assert len(pieces) == 8
    assert [len(p[0][0]) for p in pieces[:3]] == [1, 4, 7]
    assert all(b[0][0][: len(a[0][0])] == a[0][0] for a, b in zip(pieces, pieces[1:], strict=False))


def test_a_stop_ends_a_row_where_it_says_and_the_others_go_on():
    options = GenerationOptions(max_new_tokens=40, no_repeat_ngram=2)
    plain = ids(generator(None).generate(PROMPTS, options))
    token = plain[0][0][9]

    def stop(ids: list[int], seen: int) -> int | None:
        return ids.index(token) if token in ids else None

    outputs = generator(None).generate(PROMPTS, options, stop=stop)
    for (output,), (text,) in zip(outputs, plain, strict=True):
        assert output.ids == (text[: text.index(token)] if token in text else text)
        assert output.ended == (token in text)
    assert any(output.ended for (output,) in outputs) and len(outputs[0][0].ids) <= 9


def test_one_program_serves_a_bucket_of_shapes_and_every_seed():
    assert [round_up_shape(n) for n in (1, 2, 3, 4, 5, 7, 9, 100, 129)] == [1, 2, 3, 4, 6, 8, 12, 128, 192]
    assert [round_up_shape(n, 16) for n in (1, 16, 17, 25)] == [16, 16, 24, 32]
    options = {"temperature": 0.7, "min_p": 0.02}
    generator().generate(PROMPTS, GenerationOptions(max_new_tokens=16, **options))
    programs = sampling.begin_sampling._cache_size(), sampling.extend_samples._cache_size()
    for prompts, new, seed in ((PROMPTS, 9, 1), (PROMPTS[:4] + [[3]] * 2, 14, 2), ([[1] * 9] * 5, 1, 3)):
        generator().generate(prompts, GenerationOptions(max_new_tokens=new, seed=seed, **options))
    assert programs == (sampling.begin_sampling._cache_size(), sampling.extend_samples._cache_size())
    generator().generate(PROMPTS, GenerationOptions(max_new_tokens=16, beams=3))
    programs = beam.beam_search._cache_size()
    for prompts, new in ((PROMPTS, 9), (PROMPTS[:4] + [[3]] * 2, 14), ([[1] * 9] * 5, 1)):
        generator().generate(prompts, GenerationOptions(max_new_tokens=new, beams=3))
    assert beam.beam_search._cache_size() == programs


def test_the_cache_is_written_in_place():
    """If the loop copied the cache, its temporaries would be larger than the cache."""
    config = gpt2_config.GPT2Config(
        vocab_size=8, hidden_size=16, num_layers=2, num_heads=2, intermediate_size=16, max_positions=4096
    )
    backbone = GPT2(config, rngs=nnx.Rngs(0))
    tiny_generator = Generator(backbone, eos=None)
    static = {"decoder": tiny_generator._decoder, "options": GenerationOptions(), "eos": -1}
    state = sampling.begin_sampling(
        tiny_generator._weights, np.ones((4, 16), np.int32), np.zeros(4, np.int32), np.arange(4), jnp.uint32(0),
        capacity=4096, **static,
    )  # fmt: skip
    cache = sum(leaf.nbytes for leaf in jax.tree.leaves(state.cache))
    program = sampling.extend_samples.lower(
        tiny_generator._weights, state, jnp.int32(9), length=16, **static
    ).compile()
    assert program.memory_analysis().temp_size_in_bytes < cache / 3


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"temperature": -1.0}, "temperature is -1.0; expected 0"),
        ({"top_p": 0.0, "temperature": 1.0}, "top_p is 0.0; expected above 0"),
        ({"top_k": 5}, "top_k has no effect at temperature 0"),
        ({"samples": 2}, "samples is 2, but without chance all would be one text"),
        ({"samples": 4, "beams": 3}, "samples is 4, but without chance"),
        ({"beams": 2, "temperature": 1.0}, "beam search draws nothing"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0; expected 1 or more"),
        ({"seed": -1}, "seed is -1; expected between 0 and"),
    ],
)
def test_options_that_are_wrong_or_without_effect_are_named(wrong, message):
    with pytest.raises(UserError, match=message):
        GenerationOptions(**wrong)


def test_prompts_that_do_not_fit_are_named():
    with pytest.raises(UserError, match="prompt 2 has no tokens"):
        generator().generate([[1], []], GenerationOptions())
    with pytest.raises(UserError, match="prompt 1 has 100 tokens, which with max_new_tokens=64 is more than"):
        generator().generate([[1] * 100], GenerationOptions())
    generator().generate([[1] * 100], GenerationOptions(max_new_tokens=28))
