"""Loads the tokenizer of a checkpoint, and trains one for a new model."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from jaxft.errors import UserError
from jaxft.hub.addresses import first_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

END = "<|endoftext|>"  # as GPT-2's
BYTES = 256  # tokens that every byte-level vocabulary has, besides `END`


def train_tokenizer(texts: Iterable[str], vocab_size: int, max_length: int) -> "PreTrainedTokenizerFast":
    """A byte-level BPE tokenizer like GPT-2's, of at most `vocab_size` tokens (fewer where the text has no more).

    Any text can be encoded and comes out of decoding as it was. Source: Radford et al. 2019, section 2.2;
    Sennrich et al. 2016.

    max_length: what the tokenizer says is the longest input. Raises `UserError` for too small a vocabulary.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast  # slow to import

    if vocab_size < BYTES + 1:
        raise UserError(
            f"config.model.vocab_size={vocab_size}: a byte-level tokenizer has {BYTES} bytes and {END}; "
            f"expected {BYTES + 1} or more"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=[END],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END,
        eos_token=END,
        pad_token=END,
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )


def load_tokenizer(folder: Path, *, of_words: bool = False) -> "PreTrainedTokenizerBase":
    """The checkpoint's tokenizer, a fast one: only those give each token's characters.

    of_words: whether texts come cut into words. A byte-level tokenizer, such as GPT-2's, then takes each word as if
    a space stood before it.

    Raises UserError where the files are missing or hold no vocabulary, or the tokenizer is not fast.
    """
    from transformers import AutoTokenizer  # here, for it takes seconds to import

    # Without a vocabulary transformers makes up a tokenizer that knows its special tokens and no word.
    vocabularies = ("tokenizer.json", "vocab.txt", "vocab.json")
    if not any((Path(folder) / name).is_file() for name in vocabularies):
        raise UserError(f"{folder}: has no tokenizer; expected one of {', '.join(vocabularies)}")
    try:
        # Code that a checkpoint carries is never run, and nobody is asked whether it should be.
        options = {"local_files_only": True, "trust_remote_code": False}
        tokenizer = AutoTokenizer.from_pretrained(str(folder), **options)
        if of_words and getattr(tokenizer, "add_prefix_space", True) is False:
            tokenizer = AutoTokenizer.from_pretrained(str(folder), **options, add_prefix_space=True)
    except Exception as error:  # the tokenizers library raises bare Exception for a file it cannot read
        raise UserError(f"{folder}: its tokenizer cannot be read: {first_line(error)}") from error
    if not tokenizer.is_fast:
        raise UserError(
            f"{folder}: its tokenizer, {type(tokenizer).__name__}, is not fast, so characters cannot be "
            "traced to tokens; choose a checkpoint with a tokenizer.json, or convert the tokenizer to one"
        )
    return tokenizer
