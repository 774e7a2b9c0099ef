"""Defines processors: what makes a model's inputs of raw examples, and is saved next to its weights."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Processor(Protocol):
    """Makes a model's inputs of raw examples. What a task does with it, only the task knows."""

    @property
    def fingerprint(self) -> str:
        """A hash of what must stay the same for a run to resume."""

    def save_pretrained(self, folder: Path) -> None:
        """Writes its files into `folder`, from which `TaskData.load_processor` reads them."""


@dataclass(frozen=True)
class TextProcessor:
    """The processor of a model that reads text: its tokenizer."""

    tokenizer: "PreTrainedTokenizerBase"

    @property
    def fingerprint(self) -> str:
        """A hash of the vocabulary."""
        return hashlib.sha256(json.dumps(sorted(self.tokenizer.get_vocab().items())).encode()).hexdigest()

    def save_pretrained(self, folder: Path) -> None:
        """Writes the tokenizer's files into `folder`."""
        self.tokenizer.save_pretrained(folder)


def tokenizer_of(processor: Processor) -> "PreTrainedTokenizerBase":
    """Returns the tokenizer of a model that reads text."""
    assert isinstance(processor, TextProcessor), "the model reads no text"
    return processor.tokenizer
