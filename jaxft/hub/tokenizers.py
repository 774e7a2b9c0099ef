"""Loads the tokenizer of a checkpoint."""

import importlib.util
import os
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from jaxft.errors import UserError, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# The files of a vocabulary that need no conversion. Without one of them, or a SentencePiece model, transformers returns
# a tokenizer that knows its special tokens but no words.
VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json")


def import_transformers() -> ModuleType:
    """Imports transformers, which takes seconds. Without torch it would advise that models are not available."""
    name = "TRANSFORMERS_NO_ADVISORY_WARNINGS"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        return importlib.import_module("transformers")
    finally:  # other advice of transformers is for who uses it
        del os.environ[name]
        if before is not None:
            os.environ[name] = before


def load_tokenizer(folder: Path, *, reads_words: bool = False) -> "PreTrainedTokenizerBase":
    """Loads a checkpoint's tokenizer. It must be a fast tokenizer, because only these report each token's characters.

    A SentencePiece model is converted to one, if transformers can and the package sentencepiece is installed.

    Args:
      folder: the checkpoint's folder.
      reads_words: whether texts come split into words. A byte-level tokenizer, such as GPT-2's, then reads each word
        with a space before it.

    Raises:
      UserError: the files are missing or hold no vocabulary, or the tokenizer is not fast.
    """
    AutoTokenizer = import_transformers().AutoTokenizer
    sentencepiece_model = _find_sentencepiece_model(Path(folder))
    # The code in a checkpoint is never run, and the user is not asked for permission.
    options = {"local_files_only": True, "trust_remote_code": False}
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), **options)
        if reads_words and any(not step.add_prefix_space for step in _byte_level_steps(tokenizer)):
            tokenizer = AutoTokenizer.from_pretrained(str(folder), **options, add_prefix_space=True)
            for step in _byte_level_steps(tokenizer):  # general classes ignore the option
                step.add_prefix_space = True
    except Exception as error:  # the tokenizers library raises bare Exception for a file it cannot read
        if sentencepiece_model:
            raise UserError(
                f"{folder}: transformers cannot convert {sentencepiece_model}, its only vocabulary, to a fast "
                "tokenizer: the file is damaged or of another kind; download it again, or choose a checkpoint "
                f"with a tokenizer.json ({first_line(error)})"
            ) from error
        raise UserError(f"{folder}: its tokenizer cannot be read: {first_line(error)}") from error
    name = type(tokenizer).__name__
    if not tokenizer.is_fast:
        raise UserError(
            f"{folder}: its tokenizer, {name}, is not fast, so characters cannot be "
            "traced to tokens; choose a checkpoint with a tokenizer.json, or convert the tokenizer to one"
        )
    # Without a file of its vocabulary, transformers says nothing.
    if len(tokenizer) <= len(tokenizer.added_tokens_decoder):
        raise UserError(
            f"{folder}: its tokenizer, {name}, has special tokens but no words; expected its vocabulary in "
            f"{' or '.join(tokenizer.vocab_files_names.values())}"
        )
    _check_unknown_token(tokenizer, folder)
    return tokenizer


def _find_sentencepiece_model(folder: Path) -> str | None:
    """Returns the name of the SentencePiece model that is the folder's only vocabulary, None if there is another.

    Raises `UserError` if there is no vocabulary, or the model cannot be converted because a package is missing.
    """
    if any((folder / name).is_file() for name in VOCABULARIES):
        return None
    models = sorted(path.name for path in folder.glob("*.model"))
    if not models:
        raise UserError(
            f"{folder}: has no tokenizer; expected one of {', '.join(VOCABULARIES)}, or a SentencePiece model"
        )
    if importlib.util.find_spec("sentencepiece") is None:
        raise UserError(
            f"{folder}: its only vocabulary is {models[0]}, and to convert it takes the package sentencepiece, which "
            "is not installed: pip install sentencepiece, or choose a checkpoint with a tokenizer.json"
        )
    return models[0]


def _byte_level_steps(tokenizer: "PreTrainedTokenizerBase") -> list[Any]:
    """Returns the byte-level steps by which a fast tokenizer splits text; changing them changes the tokenizer."""
    from tokenizers import pre_tokenizers

    splitter = tokenizer.backend_tokenizer.pre_tokenizer if tokenizer.is_fast else None
    # A Sequence can be iterated over, although its type does not say so.
    steps: Any = splitter if isinstance(splitter, pre_tokenizers.Sequence) else [splitter]
    return [step for step in steps if isinstance(step, pre_tokenizers.ByteLevel)]


def _check_unknown_token(tokenizer: "PreTrainedTokenizerBase", folder: Path) -> None:
    """Raises `UserError` if the vocabulary is WordPiece but lacks its token for unknown words."""
    model = tokenizer.backend_tokenizer.model
    unknown = getattr(model, "unk_token", None)
    if type(model).__name__ == "WordPiece" and model.token_to_id(unknown) is None:
        raise UserError(
            f"{folder}: its vocabulary has no {unknown!r}, the token for unknown words; expected one, because words "
            "may be unknown: add it to the tokenizer, or name the token that stands for it (unk_token)"
        )


def count_token_ids(tokenizer: "PreTrainedTokenizerBase") -> int:
    """Returns the number of rows that an embedding of the tokenizer's tokens needs: its largest id, plus 1."""
    return max(tokenizer.get_vocab().values()) + 1
