"""Makes the config.json and the tokenizer of a model that is trained from random weights."""

from collections.abc import Iterable
from typing import Any

from jaxft.config.sections import NEW, Settings
from jaxft.errors import UserError
from jaxft.hub.tokenizer_training import train_tokenizer
from jaxft.models.family import NewModel
from jaxft.models.registry import FAMILIES, read_model_config


def _list_new_models(*, with_tokenizer: bool = False) -> dict[str, NewModel]:
    """Returns what families declare of new models, by address: first, or only, those that can be trained."""
    declared = [(model_type, family.new_model) for model_type, family in FAMILIES.items()]
    new_models = {f"{NEW}{new.name or model_type}": new for model_type, new in declared if new}
    trainable = {address: new_model for address, new_model in new_models.items() if new_model.has_tokenizer}
    return trainable if with_tokenizer else trainable | new_models


def make_new_config(config: Settings, address: str, vocab_size: int) -> dict[str, object]:
    """Returns the config.json of the new model at `address` that `config.model.sizes` describes.

    Raises:
      UserError: there are no new models of this type, or `config.model.sizes` has a field that the type does not know,
        or a value that cannot be.
    """
    new_models, values = _list_new_models(), dict(config.model.sizes)
    if address not in new_models:
        raise UserError(f"config.model.checkpoint={address!r}: expected one of {', '.join(new_models)}")
    new_model = new_models[address]
    if unknown := values.keys() - set(new_model.fields):
        raise UserError(
            f"config.model.sizes: {sorted(unknown)} unknown; expected some of {', '.join(new_model.fields)}"
        )
    positions = config.data.max_length + config.adapter.prefix_length
    hf_config = new_model.make_config(values, positions, vocab_size)
    try:
        model_config = read_model_config(hf_config)
    except UserError as error:
        raise UserError(str(error).replace("config.json: ", "config.model.sizes: ", 1)) from None
    return hf_config | model_config.to_hf()


def describe_new_model(config: Settings) -> dict[str, object]:
    """Returns the config.json of the new model that `config.model.checkpoint` names, without training a tokenizer.

    Its vocabulary therefore has the largest size that the tokenizer may have, `config.model.vocab_size`.
    """
    return make_new_config(config, config.model.checkpoint, config.model.vocab_size)


def make_new_model(config: Settings, texts: Iterable[str]) -> tuple[dict[str, object], Any]:
    """Returns the config.json of a new model, and its tokenizer, which is trained on `texts`.

    Raises:
      UserError: `config.model` is not a model with random initial weights for which a tokenizer can be trained.
    """
    model, trainable = config.model, _list_new_models(with_tokenizer=True)
    if model.checkpoint not in trainable or model.init != "scratch":
        raise UserError(
            f"config.model.checkpoint={model.checkpoint!r}, config.model.init={model.init!r}: a new model that can be "
            f"trained is {' or '.join(map(repr, trainable))}, or a folder with config.json and a tokenizer; both need "
            "config.model.init='scratch'"
        )
    tokenizer = train_tokenizer(texts, model.vocab_size, config.data.max_length)
    hf_config = make_new_config(config, model.checkpoint, len(tokenizer))
    return hf_config | {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }, tokenizer
