"""Trains the tokenizer of a new model."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from jaxft.errors import UserError
from jaxft.hub.tokenizers import import_transformers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

END = "<|endoftext|>"  # begins, ends and pads texts, like GPT-2's
BYTES = 256  # the number of byte tokens in every byte-level vocabulary, without `END`


def train_tokenizer(texts: Iterable[str], vocab_size: int, max_length: int) -> "PreTrainedTokenizerFast":
    """Trains a byte-level BPE tokenizer like GPT-2's.

    It can encode any text, and decoding restores the text unchanged. Source: Radford et al. 2019, section 2.2;
    Sennrich et al. 2016.

    Args:
      texts: the training texts.
      vocab_size: the largest number of tokens. A small text gives fewer.
      max_length: the largest input length, in tokens, that the tokenizer declares.

    Raises:
      UserError: `vocab_size` is too small.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    PreTrainedTokenizerFast = import_transformers().PreTrainedTokenizerFast
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
