"""Generates tokens for batches of ragged prompts, compiling once for each bucket of shapes."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np
from flax import nnx

from jaxft.errors import UserError
from jaxft.generation import beam, sampling
from jaxft.generation.options import GenerationOptions
from jaxft.models.gpt2 import cached_decoder
from jaxft.models.gpt2.network import GPT2


@dataclasses.dataclass(frozen=True)
class Output:
    """Token ids that were generated for one prompt, without the token that ends a text."""

    ids: list[int]
    ended: bool  # by that token or by a stop, not by the limit of tokens
    score: float | None = None  # of a beam: its log probability over its length to the power of the penalty


# Shortens token ids to where a text must stop; None where it may go on. Gets all ids and how many of them it
# has seen before.
Stop = Callable[[list[int], int], int | None]


def round_up_shape(count: int, least: int = 1) -> int:
    """The next number that is a power of two or one and a half times one, and `least` or more."""
    size = least
    while size < count:
        size = size * 3 // 2 if size & (size - 1) == 0 and size > 1 else 1 << size.bit_length()
    return size


class Generator:
    """A network that continues token ids.

    eos: the token that ends a text, None for none. Batches run on one device, the first.
    """

    def __init__(self, backbone: GPT2, *, eos: int | None):
        graph, state = nnx.split(backbone)
        # A run's parameters may lie on every device of a mesh.
        backbone = nnx.merge(graph, jax.device_put(state, jax.local_devices()[0]))
        self._weights, self._sizes = cached_decoder.prepare_weights(backbone)
        self._eos = -1 if eos is None else eos
        self.max_positions = backbone.max_positions

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        options: GenerationOptions,
        *,
        first: int = 0,
        stop: Stop | None = None,
    ) -> list[list[Output]]:
        """`options.samples` outputs for each prompt, in their order; see `stream`."""
        every = 16 if stop else None  # a stop is found by the host: until then tokens are made in vain
        *_, last = self.stream(prompts, options, first=first, stop=stop, every=every)
        return last

    def stream(
        self,
        prompts: Sequence[Sequence[int]],
        options: GenerationOptions,
        *,
        first: int = 0,
        stop: Stop | None = None,
        every: int | None = 1,
    ) -> Iterator[list[list[Output]]]:
        """All outputs so far, each `every` tokens and at the end; those of beam search at the end only.

        All prompts are one batch. `first` is the number of the first: what is drawn for a text depends on the
        seed, the number of its prompt, the number of the sample and the step, on nothing else in the batch.
        Numbers of rows, of prompt tokens and of new tokens are rounded up to powers of two and the halves
        between; whatever falls into the same is computed by the same compiled program.

        Raises `UserError` for a prompt that is empty, or too long for the network's positions.
        """
        for index, prompt in enumerate(prompts, start=first + 1):
            if not len(prompt):
                raise UserError(f"prompt {index} has no tokens; give at least the token that begins a text")
            if len(prompt) + options.max_new_tokens > self.max_positions:
                raise UserError(
                    f"prompt {index} has {len(prompt)} tokens, which with max_new_tokens={options.max_new_tokens} "
                    f"is more than the model's {self.max_positions} positions; shorten either"
                )
        rows = round_up_shape(len(prompts))
        length = round_up_shape(max(map(len, prompts)), 16)
        capacity = length + round_up_shape(options.max_new_tokens, 16)
        ids = np.zeros((rows, length), np.int32)
        start = np.full(rows, length, np.int32)
        for row, prompt in enumerate(prompts):
            start[row] = length - len(prompt)
            ids[row, start[row] :] = prompt
        # What is compiled does not depend on these.
        recipe = dataclasses.replace(options, max_new_tokens=1, seed=0)
        static = {"sizes": self._sizes, "options": recipe, "eos": self._eos}
        most = options.max_new_tokens
        ids, start = jax.device_put((ids, start))
        if options.beams > 1:
            limit = jax.device_put(np.int32(most))
            found = beam.beam_search(self._weights, ids, start, limit, capacity=capacity, **static)
            yield self._best(len(prompts), options.samples, stop, *jax.device_get(found))
            return
        numbers, seed = jax.device_put(
            (np.arange(first, first + rows, dtype=np.int32), np.uint32(options.seed))
        )
        state = sampling.begin_sampling(self._weights, ids, start, numbers, seed, capacity=capacity, **static)
        outputs = [Output([], False)] * (len(prompts) * options.samples)
        until = 1 if every else most
        while True:
            limit = jax.device_put(np.int32(until))
            state = sampling.extend_samples(self._weights, state, limit, length=length, **static)
            tokens, done, end = jax.device_get((state.tokens, state.done, state.end))
            outputs = [
                output if output.ended else self._output(row[length:end].tolist(), stop, len(output.ids))
                for output, row in zip(outputs, tokens, strict=False)
            ]
            yield [outputs[i : i + options.samples] for i in range(0, len(outputs), options.samples)]
            done = done.copy()
            done[: len(outputs)] = [output.ended for output in outputs]  # by a stop too
            if until == most or done.all():
                return
            state = state._replace(done=jax.device_put(done))
            until = min(until + every, most)

    def _output(self, ids: list[int], stop: Stop | None, seen: int, score: float | None = None) -> Output:
        """The output of a row that has `ids`, which may go on behind the token that ends it."""
        ended = self._eos in ids
        if ended:
            ids = ids[: ids.index(self._eos)]
        if stop and (cut := stop(ids, seen)) is not None:
            ids, ended = ids[:cut], True
        return Output(ids, ended, score)

    def _best(self, prompts, samples, stop, tokens, lengths, scores) -> list[list[Output]]:
        return [
            [
                self._output(tokens[p, k, : lengths[p, k]].tolist(), stop, 0, float(scores[p, k]))
                for k in range(samples)
            ]
            for p in range(prompts)
        ]
