"""Ends generated text at stop strings."""

from collections.abc import Sequence
from typing import Any

from jaxft.errors import UserError


def decode_text(tokenizer: Any, ids: Sequence[int]) -> str:
    """Decodes generated token ids as the tokenizer spells them, without special tokens."""
    return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


class StopStrings:
    """Finds the first occurrence of any stop string in generated text; a `Stop` of generation/generator.py."""

    def __init__(self, tokenizer: Any, strings: Sequence[str]):
        if not all(strings):
            raise UserError("a stop string is empty; give the text to stop at")
        self._tokenizer, self._strings = tokenizer, strings

    def __call__(self, ids: list[int], seen: int) -> int | None:
        """Returns the number of ids after which a stop string is complete, or None if none is."""
        if self._cut_ids(ids) is None:
            return None
        return next(count for count in range(1, len(ids) + 1) if self._cut_ids(ids[:count]) is not None)

    def _cut_ids(self, ids: list[int]) -> str | None:
        """Returns the text of `ids` before the first stop string, or None if there is none."""
        return self.cut(decode_text(self._tokenizer, ids))

    def cut(self, text: str) -> str | None:
        """Returns the text before the first stop string, or None if there is none."""
        starts = [text.index(string) for string in self._strings if string in text]
        return text[: min(starts)] if starts else None

    def count_pending(self, text: str) -> int:
        """Returns how many of the last characters may be the beginning of a stop string."""
        beginnings = (string[:length] for string in self._strings for length in range(1, len(string)))
        return max((len(beginning) for beginning in beginnings if text.endswith(beginning)), default=0)
