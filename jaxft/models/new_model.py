"""Makes the config.json and the tokenizer of a model that is trained from random weights."""

from collections.abc import Iterable
from typing import Any

from jaxft.config.sections import NEW, Settings
from jaxft.errors import UserError
from jaxft.hub.tokenizer_training import train_tokenizer
from jaxft.models.registry import FAMILIES

NEW_MODEL_TYPES = ("gpt2", "bert")  # a new BERT can only be planned, not trained


def make_new_config(config: Settings, model_type: str, vocab_size: int) -> dict[str, Any]:
    """Returns the config.json of the new model of `model_type` that `config.model.sizes` describes.

    Raises:
      UserError: there are no new models of this type, or `config.model.sizes` has a field that the type does not know,
        or a value that cannot be.
    """
    if model_type not in NEW_MODEL_TYPES:
        raise UserError(
            f"config.model.checkpoint='{NEW}{model_type}': expected one of "
            f"{', '.join(f'{NEW}{name}' for name in NEW_MODEL_TYPES)}"
        )
    family, fields = FAMILIES[model_type].config, dict(config.model.sizes)
    if unknown := fields.keys() - set(family.NEW_MODEL_FIELDS):
        raise UserError(
            f"config.model.sizes: {sorted(unknown)} unknown; expected some of {', '.join(family.NEW_MODEL_FIELDS)}"
        )
    hf_config = family.make_new_config(fields, max_length=config.data.max_length, vocab_size=vocab_size)
    try:
        model_config = FAMILIES[model_type].config_class.from_hf(hf_config)
    except UserError as error:
        raise UserError(str(error).replace("config.json: ", "config.model.sizes: ", 1)) from None
    return hf_config | model_config.to_hf()


def describe_new_model(config: Settings) -> dict[str, Any]:
    """Returns the config.json of the new model that `config.model.checkpoint` names, without training a tokenizer.

    Its vocabulary therefore has the largest size that the tokenizer may have, `config.model.vocab_size`.
    """
    model_type = config.model.checkpoint.removeprefix(NEW)
    return make_new_config(config, model_type, config.model.vocab_size)


def make_new_model(config: Settings, texts: Iterable[str]) -> tuple[dict[str, Any], Any]:
    """Returns the config.json of a new model, and its tokenizer, which is trained on `texts`.

    Raises:
      UserError: `config.model` is not a GPT-2 with random initial weights.
    """
    model = config.model
    if model.checkpoint != f"{NEW}gpt2" or model.init != "scratch":
        raise UserError(
            f"config.model.checkpoint={model.checkpoint!r}, config.model.init={model.init!r}: a new model is "
            f"'{NEW}gpt2' with init 'scratch'"
        )
    tokenizer = train_tokenizer(texts, model.vocab_size, config.data.max_length)
    hf_config = make_new_config(config, "gpt2", len(tokenizer))
    return hf_config | {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }, tokenizer
