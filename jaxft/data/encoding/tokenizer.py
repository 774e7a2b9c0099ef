"""Calls a fast Hugging Face tokenizer on texts, and finds the special tokens that it adds."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from jaxft.errors import UserError

if TYPE_CHECKING:
    from tokenizers import Encoding
    from transformers import PreTrainedTokenizerBase


def tokenize(tokenizer: "PreTrainedTokenizerBase", texts: Sequence[Any], **options: Any) -> list["Encoding"]:
    """Tokenizes texts without special tokens, truncation or padding.

    Returns:
      The tokens of each text.
    """
    return tokenizer(
        texts,
        add_special_tokens=False,
        truncation=False,
        padding=False,
        return_attention_mask=False,
        verbose=False,
        **options,
    ).encodings


def describe_tokenizer(tokenizer: "PreTrainedTokenizerBase") -> dict[str, Any]:
    """Returns all settings that a tokenizer's results depend on, for fingerprints of encoded text."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())
    # These two hold the arguments of the last call, not properties of the tokenizer.
    model.pop("truncation", None)
    model.pop("padding", None)
    return model


def find_special_tokens(tokenizer: "PreTrainedTokenizerBase") -> tuple[list[int], list[int]]:
    """Returns the token ids that the tokenizer puts before and after one text."""
    encoded = tokenizer([["a"]], is_split_into_words=True, truncation=False, padding=False)
    ids = encoded["input_ids"][0]
    text_positions = [index for index, word in enumerate(encoded.word_ids(0)) if word is not None]
    return ids[: text_positions[0]], ids[text_positions[-1] + 1 :]


class TokenTypes(NamedTuple):
    """The token types of a window: those of a `Frame`'s special tokens and of the two texts between them."""

    before: list[int]
    first: int
    between: list[int]
    second: int
    after: list[int]


class Frame(NamedTuple):
    """The ids of the special tokens before, between and after a text and its pair, and the types of all tokens."""

    before: list[int]
    between: list[int]
    after: list[int]
    types: TokenTypes

    @property
    def size(self) -> int:
        """The number of special tokens."""
        return len(self.before) + len(self.between) + len(self.after)

    def join_ids(self, first: Sequence[int], second: Sequence[int]) -> list[int]:
        """Returns the token ids of a window that holds two texts; `second` is empty for a text without a pair."""
        return [*self.before, *first, *self.between, *second, *self.after]

    def join_types(self, first_length: int, second_length: int) -> list[int]:
        """Returns the token types of a window that holds two texts of these lengths in tokens."""
        types = self.types
        first, second = [types.first] * first_length, [types.second] * second_length
        return [*types.before, *first, *types.between, *second, *types.after]


def make_frame(tokenizer: "PreTrainedTokenizerBase", has_pair: bool) -> Frame:
    """Finds the special tokens that the tokenizer puts around one text, or around a text and its pair."""
    [encoding] = tokenizer(["a"], ["a"] if has_pair else None, truncation=False, padding=False).encodings
    ids, types = encoding.ids, encoding.type_ids
    first = [index for index, text in enumerate(encoding.sequence_ids) if text == 0]
    second = [index for index, text in enumerate(encoding.sequence_ids) if text == 1]
    before = slice(0, first[0])
    between = slice(first[-1] + 1, second[0]) if has_pair else slice(0, 0)
    after = slice((second if has_pair else first)[-1] + 1, None)
    second_type = types[second[0]] if has_pair else 0
    token_types = TokenTypes(types[before], types[first[0]], types[between], second_type, types[after])
    return Frame(ids[before], ids[between], ids[after], token_types)


class BoundaryTokens(NamedTuple):
    """The ids of the tokens before and after a text; GPT-2 uses the same token for both."""

    start: int
    end: int


def find_boundary_tokens(tokenizer: "PreTrainedTokenizerBase") -> BoundaryTokens:
    """Returns the tokenizer's tokens at a text's start and end. Raises `UserError` if it has no end token."""
    end = tokenizer.eos_token_id
    if end is None:
        raise UserError(
            "the tokenizer has no end-of-text token, so no model can learn where a text ends; choose another "
            "checkpoint, or set eos_token in its tokenizer_config.json"
        )
    return BoundaryTokens(end if tokenizer.bos_token_id is None else tokenizer.bos_token_id, end)
