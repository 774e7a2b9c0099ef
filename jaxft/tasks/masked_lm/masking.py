"""Masks tokens, other ones in each epoch.

A mask is a function of the loader's seed, the epoch, the number of the window and the place in it. So it is the same on
any mesh, in rows of any number, and after a resume; and each evaluation masks the same tokens.

In each window, the nearest number to its share of units is masked, at least one: a unit is a token, or all tokens of a
word. transformers' collator masks each token with that probability instead, so that the number varies. BERT's own
pretraining fixed it too (Devlin et al., 2019, appendix A.1), and the number of predicted tokens is then known ahead.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from jaxft.data.encoding.encoded import ArraySpec, Placement
from jaxft.data.encoding.windows import Windows
from jaxft.data.ragged import offsets_from_lengths, ragged_arange

MASK_SHARE, RANDOM_SHARE = 0.8, 0.1  # of the predicted tokens; the others stay as they are
_CHOICE, _REPLACEMENT, _WORD = range(3)  # what a number is drawn for
_COUNTED_WINDOWS = 1 << 12  # windows whose words are counted at a time: a corpus may be larger than memory


class Masking(NamedTuple):
    """Says how tokens are masked.

    Attributes:
      probability: the share of units that are masked.
      whole_words: whether a unit is a word instead of a token.
      mask: the id of the mask token.
      words: int32 `[V]`, the ids that replace tokens at random: the vocabulary without special tokens. transformers'
        collator draws from all of it, and so puts padding and separators into texts, where no text has them.
    """

    probability: float
    whole_words: bool
    mask: int
    words: np.ndarray


@dataclass(frozen=True)
class MaskedWindows(Windows):
    """Windows that mask tokens when they are written into a batch. Only tokens with a label are masked.

    Attributes:
      masking: how they are masked.
    """

    masking: Masking

    @cached_property
    def label_counts(self) -> np.ndarray:
        """The most tokens that are masked in each window: int64 `[N]`. Without whole words, it is their number."""
        if not self.masking.whole_words:
            return _count_masked(super().label_counts, self.masking.probability)
        counts = np.empty(len(self), np.int64)
        for start in range(0, len(self), _COUNTED_WINDOWS):
            offsets = self.offsets[start : start + _COUNTED_WINDOWS + 1]
            tokens = np.arange(offsets[0], offsets[-1])
            window = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
            units = self._group_into_units(tokens, window)
            order = np.lexsort((-units.sizes, units.window))
            is_masked = units.rank_is_masked(len(offsets) - 1, self.masking.probability)
            masked = order[is_masked]
            counts[start : start + len(offsets) - 1] = np.bincount(
                units.window[masked], units.sizes[masked], minlength=len(offsets) - 1
            )
        return counts

    def _group_into_units(self, tokens: np.ndarray, window: np.ndarray) -> "_Units":
        """Groups those of some tokens that may be masked.

        Args:
          tokens: int64 `[T]`, the index of each token among all windows' tokens.
          window: int64 `[T]`, the number of each token's window, ascending.
        """
        tokens_kept = np.flatnonzero(self.labels[tokens] >= 0)
        window = window[tokens_kept]
        begins = np.ones(len(tokens_kept), bool)
        if self.masking.whole_words:
            word = self.word[tokens[tokens_kept]]
            begins[1:] = (word[1:] != word[:-1]) | (window[1:] != window[:-1])
        first = np.flatnonzero(begins)
        sizes = np.diff(first, append=len(tokens_kept))
        return _Units(window[first], tokens_kept[first], sizes, tokens_kept)

    def fill(
        self, placement: Placement, specs: Mapping[str, ArraySpec], *, rows: int, length: int, segments: int
    ) -> dict[str, np.ndarray]:
        """Returns the arrays of a batch, with masks in `input_ids`. Only masked tokens have labels and weights."""
        arrays = super().fill(placement, specs, rows=rows, length=length, segments=segments)
        count, lengths = len(placement.windows), placement.lengths
        number = np.repeat(np.arange(count), lengths)  # of each token's window, in the batch
        offset = ragged_arange(0, lengths)
        tokens = self.offsets[placement.windows][number] + offset
        numbers = _Numbers.of_epoch(placement.seed, placement.epoch)
        window = placement.windows[number]

        units = self._group_into_units(tokens, number)
        scores = numbers.draw(window[units.first], offset[units.first], _CHOICE)
        order = np.lexsort((scores, units.window))
        is_unit_masked = np.zeros(len(units.window), bool)
        is_unit_masked[order[units.rank_is_masked(count, self.masking.probability)]] = True
        masked = units.tokens[np.repeat(is_unit_masked, units.sizes)]

        place = (placement.rows * length + placement.starts)[number[masked]] + offset[masked]
        ids = self.input_ids[tokens[masked]]
        where = window[masked], offset[masked]
        share = numbers.draw(*where, _REPLACEMENT) / 2.0**64
        random = self.masking.words[numbers.draw(*where, _WORD) % np.uint64(len(self.masking.words))]
        replaced = np.where(share < MASK_SHARE + RANDOM_SHARE, random, ids)
        arrays["input_ids"].reshape(-1)[place] = np.where(share < MASK_SHARE, self.masking.mask, replaced)
        for name, values in (("labels", ids), ("weights", 1)):
            array = np.zeros_like(arrays[name])
            array.reshape(-1)[place] = values
            arrays[name] = array
        return arrays


class _Units(NamedTuple):
    """The units of some tokens.

    Attributes:
      window: int64 `[U]`, the number of each unit's window, ascending.
      first: int64 `[U]`, the index of each unit's first token among the tokens.
      sizes: int64 `[U]`, its number of tokens.
      tokens: int64 `[sum of sizes]`, the indices of the units' tokens, in order.
    """

    window: np.ndarray
    first: np.ndarray
    sizes: np.ndarray
    tokens: np.ndarray

    def rank_is_masked(self, windows: int, probability: float) -> np.ndarray:
        """Returns, for units ordered by window and then in any way, whether the place in the window is masked.

        Args:
          windows: the number of windows.
          probability: the share that is masked.

        Returns:
          bool `[U]`.
        """
        counts = np.bincount(self.window, minlength=windows)
        rank = np.arange(len(self.window)) - offsets_from_lengths(counts)[self.window]
        return rank < _count_masked(counts, probability)[self.window]


def _count_masked(units: np.ndarray, probability: float) -> np.ndarray:
    """Returns how many of the units of each window are masked, int64 `[N]` for int64 `[N]`."""
    return np.where(units > 0, np.maximum(np.floor(units * probability + 0.5), 1), 0).astype(np.int64)


class _Numbers(NamedTuple):
    """Random numbers of an epoch, each a hash of its place (SplitMix64: Steele et al. 2014, figure 16)."""

    key: np.ndarray  # uint64 [1]

    @classmethod
    def of_epoch(cls, seed: int, epoch: int) -> "_Numbers":
        """Returns the numbers for a seed and an epoch."""
        return cls(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64))

    def draw(self, window: np.ndarray, offset: np.ndarray, purpose: int) -> np.ndarray:
        """Returns a number for each place: int64 `[N]`, int64 `[N]` -> uint64 `[N]`, uniform over all values."""
        of_window = _mix(self.key + window.astype(np.uint64))
        return _mix(of_window + (4 * offset + purpose).astype(np.uint64))


def _mix(x: np.ndarray) -> np.ndarray:
    x = (x + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
