"""Loads the tokenizer of a checkpoint."""

from pathlib import Path
from typing import TYPE_CHECKING

from jaxft.errors import UserError, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def load_tokenizer(folder: Path, *, reads_words: bool = False) -> "PreTrainedTokenizerBase":
    """Loads a checkpoint's tokenizer. It must be a fast tokenizer, because only these report each token's characters.

    Args:
      folder: the checkpoint's folder.
      reads_words: whether texts come split into words. A byte-level tokenizer, such as GPT-2's, then reads each word
        with a space before it.

    Raises:
      UserError: the files are missing or hold no vocabulary, or the tokenizer is not fast.
    """
    from transformers import AutoTokenizer  # imported late, because it takes seconds

    # Without a vocabulary file transformers returns a tokenizer that knows its special tokens but no words.
    vocabularies = ("tokenizer.json", "vocab.txt", "vocab.json")
    if not any((Path(folder) / name).is_file() for name in vocabularies):
        raise UserError(f"{folder}: has no tokenizer; expected one of {', '.join(vocabularies)}")
    try:
        # The code in a checkpoint is never run, and the user is not asked for permission.
        options = {"local_files_only": True, "trust_remote_code": False}
        tokenizer = AutoTokenizer.from_pretrained(str(folder), **options)
        if reads_words and getattr(tokenizer, "add_prefix_space", True) is False:
            tokenizer = AutoTokenizer.from_pretrained(str(folder), **options, add_prefix_space=True)
    except Exception as error:  # the tokenizers library raises bare Exception for a file it cannot read
        raise UserError(f"{folder}: its tokenizer cannot be read: {first_line(error)}") from error
    if not tokenizer.is_fast:
        raise UserError(
            f"{folder}: its tokenizer, {type(tokenizer).__name__}, is not fast, so characters cannot be "
            "traced to tokens; choose a checkpoint with a tokenizer.json, or convert the tokenizer to one"
        )
    _check_unknown_token(tokenizer, folder)
    return tokenizer


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
