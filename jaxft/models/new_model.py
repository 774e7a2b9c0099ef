"""Makes the config.json and the tokenizer of a model that is trained from random weights."""

from collections.abc import Iterable
from typing import Any

from jaxft.config.sections import NEW, Settings
from jaxft.errors import UserError
from jaxft.hub.tokenizer_training import train_tokenizer
from jaxft.models.registry import FAMILIES


def _new_addresses(*, with_tokenizer: bool = False) -> list[str]:
    """Returns the addresses of new models: first those that can be trained, then, or not at all, the others."""
    new_models = {name: family.new_model for name, family in FAMILIES.items() if family.new_model}
    addresses = [f"{NEW}{name}" for name, new_model in new_models.items() if new_model.has_tokenizer]
    if not with_tokenizer:
        addresses += [f"{NEW}{name}" for name in new_models if f"{NEW}{name}" not in addresses]
    return addresses


def make_new_config(config: Settings, model_type: str, vocab_size: int) -> dict[str, object]:
    """Returns the config.json of the new model of `model_type` that `config.model.sizes` describes.

    Raises:
      UserError: there are no new models of this type, or `config.model.sizes` has a field that the type does not know,
        or a value that cannot be.
    """
    address = f"{NEW}{model_type}"
    if address not in _new_addresses():
        raise UserError(f"config.model.checkpoint={address!r}: expected one of {', '.join(_new_addresses())}")
    family, values = FAMILIES[model_type], dict(config.model.sizes)
    new_model = family.new_model
    if unknown := values.keys() - set(new_model.fields):
        raise UserError(
            f"config.model.sizes: {sorted(unknown)} unknown; expected some of {', '.join(new_model.fields)}"
        )
    hf_config = new_model.make_config(values, config.data.max_length, vocab_size)
    try:
        model_config = family.config_class.from_hf(hf_config)
    except UserError as error:
        raise UserError(str(error).replace("config.json: ", "config.model.sizes: ", 1)) from None
    return hf_config | model_config.to_hf()


def describe_new_model(config: Settings) -> dict[str, object]:
    """Returns the config.json of the new model that `config.model.checkpoint` names, without training a tokenizer.

    Its vocabulary therefore has the largest size that the tokenizer may have, `config.model.vocab_size`.
    """
    model_type = config.model.checkpoint.removeprefix(NEW)
    return make_new_config(config, model_type, config.model.vocab_size)


def make_new_model(config: Settings, texts: Iterable[str]) -> tuple[dict[str, object], Any]:
    """Returns the config.json of a new model, and its tokenizer, which is trained on `texts`.

    Raises:
      UserError: `config.model` is not a model with random initial weights for which a tokenizer can be trained.
    """
    model, trainable = config.model, _new_addresses(with_tokenizer=True)
    if model.checkpoint not in trainable or model.init != "scratch":
        raise UserError(
            f"config.model.checkpoint={model.checkpoint!r}, config.model.init={model.init!r}: a new model is "
            f"{' or '.join(map(repr, trainable))} with init 'scratch'"
        )
    tokenizer = train_tokenizer(texts, model.vocab_size, config.data.max_length)
    hf_config = make_new_config(config, model.checkpoint.removeprefix(NEW), len(tokenizer))
    return hf_config | {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }, tokenizer
