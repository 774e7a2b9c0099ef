"""Reads and encodes documents whose tokens are masked, and texts whose masks are to be filled."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxft.data.encoding.windows import Windows
from jaxft.data.sources.documents import Document
from jaxft.errors import UserError
from jaxft.hub.processors import TextProcessor
from jaxft.tasks.masked_lm.encoding import encode_texts
from jaxft.tasks.masked_lm.masking import MaskedWindows, Masking
from jaxft.tasks.masked_lm.settings import Settings
from jaxft.tasks.reading import DocumentData, cache_folder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MASK = "[MASK]"  # stands for the mask token of any tokenizer in texts to predict


@dataclasses.dataclass(frozen=True, slots=True)
class MaskedText(Document):
    """A text with masks to fill."""


class MaskedDocuments(DocumentData):
    """The documents of a run. Batches mask tokens of theirs; of a `MaskedText`, only the masks are predicted."""

    _config: Settings
    example_input = f"The capital of France is {MASK}."

    def encode(
        self,
        texts: Sequence[Document],
        labels: Sequence[str],
        processor: TextProcessor,
        *,
        only: range | None = None,
        cached: bool = True,
    ) -> Windows:
        """Returns the windows of texts; see `encode_texts` and `MaskedWindows`."""
        data, tokenizer = self._config.data, processor.tokenizer
        texts = texts if only is None else texts[only.start : only.stop]
        mask_id = find_mask(tokenizer)
        has_masks = isinstance(texts[0], MaskedText)
        windows = encode_texts(
            texts,
            tokenizer,
            max_length=self._config.text_length,
            prompt_length=self._config.adapter.prompt_length,
            layout="documents" if has_masks else data.layout,
            stride=data.stride,
            given_mask=mask_id if has_masks else None,
            cache_dir=cache_folder(data.cache_dir) if cached else None,
        )
        if has_masks:
            return windows
        words = np.setdiff1d(list(tokenizer.get_vocab().values()), tokenizer.all_special_ids)
        masking = Masking(data.mask_probability, data.mask_whole_words, mask_id, words.astype(np.int32))
        return MaskedWindows(windows.record_batch, masking)


def find_mask(tokenizer: "PreTrainedTokenizerBase") -> int:
    """Returns the id of the mask token. Raises `UserError` if the tokenizer has none."""
    if tokenizer.mask_token_id is None:
        raise UserError(
            "the tokenizer has no mask token, so the model was not trained to fill masks; choose another checkpoint, "
            "or set mask_token in its tokenizer_config.json"
        )
    return tokenizer.mask_token_id
