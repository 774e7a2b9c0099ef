"""Generates tokens for batches of ragged prompts, compiling once for each bucket of shapes."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import cast

import jax
import numpy as np
from flax import nnx

from jaxft.errors import UserError
from jaxft.generation import beam, sampling
from jaxft.generation.options import GenerationOptions
from jaxft.layers.heads.backbone import AdaptableBackbone, Backbone, count_virtual_tokens
from jaxft.models.model_config import ModelConfig
from jaxft.models.registry import make_decoder


@dataclasses.dataclass(frozen=True)
class Output:
    """The tokens that were generated for one prompt.

    Attributes:
      ids: the token ids, without the end token.
      ended: True if the end token or a stop ended the text; False if it reached the limit of tokens.
      score: for beam search, the log probability divided by the length to the power of the penalty.
    """

    ids: list[int]
    ended: bool
    score: float | None = None


# (ids, seen) -> the number of ids after which a text must stop, or None if it may continue. `seen` is the number of ids
# in the previous call for the same text.
Stop = Callable[[list[int], int], int | None]

STOP_INTERVAL = 16  # tokens between two checks for a stop on the host; tokens after the stop are wasted


def round_up_shape(count: int, minimum: int = 1) -> int:
    """Rounds the larger of `count` and `minimum` up to a power of two, or to 1.5 times a power of two."""
    size = minimum
    while size < count:
        size = size * 3 // 2 if size & (size - 1) == 0 and size > 1 else 1 << size.bit_length()
    return size


class Generator:
    """Continues token ids with a network, on the first local device."""

    def __init__(self, backbone: Backbone, *, eos: int | None):
        """Prepares the weights for decoding. `eos` is the token that ends a text, or None.

        Raises `UserError` if the backbone's family does not generate text.
        """
        graph, state = nnx.split(backbone)
        # A run's parameters may be on every device of a mesh.
        backbone, config = nnx.merge(graph, jax.device_put(state, jax.local_devices()[0])), backbone.config
        assert isinstance(config, ModelConfig)
        self._decoder = make_decoder(config)
        self._weights = self._decoder.prepare_weights(backbone)
        self._eos = -1 if eos is None else eos
        adaptable = cast(AdaptableBackbone, backbone)  # as all that generate text
        self.max_positions = config.max_positions - count_virtual_tokens(adaptable)

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        options: GenerationOptions,
        *,
        first_number: int = 0,
        stop: Stop | None = None,
    ) -> list[list[Output]]:
        """Returns `options.samples` outputs for each prompt, in the order of prompts; see `stream`."""
        interval = STOP_INTERVAL if stop else None
        *_, outputs = self.stream(prompts, options, first_number=first_number, stop=stop, interval=interval)
        return outputs

    def stream(
        self,
        prompts: Sequence[Sequence[int]],
        options: GenerationOptions,
        *,
        first_number: int = 0,
        stop: Stop | None = None,
        interval: int | None = 1,
    ) -> Iterator[list[list[Output]]]:
        """Yields all outputs so far, repeatedly, until all texts have ended.

        All prompts form one batch. The numbers of rows, prompt tokens and new tokens are rounded up by
        `round_up_shape`. Batches with the same rounded numbers share a compiled program.

        Args:
          prompts: the token ids of each prompt.
          options: how tokens are chosen.
          first_number: the number of the first prompt. The random draws for a text depend only on the seed, the number
            of its prompt, the number of the sample and the step.
          stop: ends texts before their end token.
          interval: yields after the first token and then every `interval` tokens; None yields only at the end. Beam
            search always yields only at the end.

        Raises:
          UserError: a prompt is empty or too long for the network's positions.
        """
        self._check_prompts(prompts, options.max_new_tokens, first_number)
        ids, start = _pad_left(prompts)
        length = ids.shape[1]
        capacity = length + round_up_shape(options.max_new_tokens, 16)
        # The compiled programs do not depend on these two options, so fixed values avoid recompilation.
        compiled_options = dataclasses.replace(options, max_new_tokens=1, seed=0)
        static = {"decoder": self._decoder, "options": compiled_options, "eos": self._eos}
        ids, start = jax.device_put((ids, start))
        if options.beams > 1:
            limit = jax.device_put(np.int32(options.max_new_tokens))
            beams = beam.beam_search(self._weights, ids, start, limit, capacity=capacity, **static)
            tokens, lengths, scores = jax.device_get(beams)
            yield [
                [
                    self._output(tokens[p, k, : lengths[p, k]].tolist(), stop, 0, float(scores[p, k]))
                    for k in range(options.samples)
                ]
                for p in range(len(prompts))
            ]
            return
        numbers, seed = jax.device_put(
            (np.arange(first_number, first_number + len(ids), dtype=np.int32), np.uint32(options.seed))
        )
        state = sampling.begin_sampling(self._weights, ids, start, numbers, seed, capacity=capacity, **static)
        outputs = [Output([], False)] * (len(prompts) * options.samples)
        limit = 1 if interval else options.max_new_tokens
        while True:
            state = sampling.extend_samples(
                self._weights, state, jax.device_put(np.int32(limit)), length=length, **static
            )
            tokens, done, end = jax.device_get((state.tokens, state.done, state.end))
            outputs = [
                output if output.ended else self._output(row[length:end].tolist(), stop, len(output.ids))
                for output, row in zip(outputs, tokens, strict=False)
            ]
            yield [outputs[i : i + options.samples] for i in range(0, len(outputs), options.samples)]
            done = done.copy()
            done[: len(outputs)] = [output.ended for output in outputs]  # a stop may have ended more rows
            if limit == options.max_new_tokens or done.all():
                return
            state = state._replace(done=jax.device_put(done))
            assert interval is not None  # without one, the first turn makes all tokens
            limit = min(limit + interval, options.max_new_tokens)

    def _check_prompts(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int, first_number: int
    ) -> None:
        """Raises `UserError` if a prompt is empty, or has too many tokens for the network's positions."""
        for number, prompt in enumerate(prompts, start=first_number + 1):
            if not len(prompt):
                raise UserError(f"prompt {number} has no tokens; give at least the token that begins a text")
            if len(prompt) + max_new_tokens > self.max_positions:
                raise UserError(
                    f"prompt {number} has {len(prompt)} tokens, which with max_new_tokens={max_new_tokens} "
                    f"is more than the model's {self.max_positions} positions; shorten either"
                )

    def _output(self, ids: list[int], stop: Stop | None, seen: int, score: float | None = None) -> Output:
        """Returns the output of a row with tokens `ids`, which may continue after the end token."""
        ended = self._eos in ids
        if ended:
            ids = ids[: ids.index(self._eos)]
        if stop and (length := stop(ids, seen)) is not None:
            ids, ended = ids[:length], True
        return Output(ids, ended, score)


def _pad_left(prompts: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Makes a batch of prompts that all end at the last column. Rounds up the numbers of rows and columns.

    Returns:
      (token ids, starts): int32 `[B, P]`; int32 `[B]`, the column of each prompt's first token, or P for rows that
      only fill up the batch.
    """
    rows = round_up_shape(len(prompts))
    length = round_up_shape(max(map(len, prompts)), 16)
    ids = np.zeros((rows, length), np.int32)
    start = np.full(rows, length, np.int32)
    for row, prompt in enumerate(prompts):
        start[row] = length - len(prompt)
        ids[row, start[row] :] = prompt
    return ids, start
