"""Opens the model that a run starts from, without its weights, and resolves its shape under the run's settings."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.config.sections import NEW, RUN, Settings
from jaxft.errors import UserError
from jaxft.hub.addresses import resolve_address
from jaxft.hub.files import read_config
from jaxft.hub.processors import Processor, TextProcessor
from jaxft.hub.tensors import open_tensors
from jaxft.hub.tokenizers import count_token_ids, load_tokenizer
from jaxft.layers.attention.choice import choose_attention
from jaxft.layers.attention.interface import Feature
from jaxft.layers.heads.kinds import HeadKind
from jaxft.layers.runtime import Runtime
from jaxft.models.model_config import ModelConfig
from jaxft.models.new_model import describe_new_model, make_new_model
from jaxft.models.registry import family_of, read_model_config


class WeightReader(NamedTuple):
    """Reads weights that are not in safetensors files.

    Attributes:
      open: returns the tensors by their names in checkpoints.
      checksum: returns a text that tells weights from others.
    """

    open: Callable[[], Mapping[str, np.ndarray]]
    checksum: Callable[[], str]


@dataclasses.dataclass(frozen=True)
class PretrainedModel:
    """A pretrained checkpoint's folder, its config.json and its processor.

    Attributes:
      address: the checkpoint's address, as in `config.model.checkpoint`.
      folder: the folder of the weights; None for a new model, which has none.
      hf_config: the config.json. Its vocabulary includes added tokens, although the weights have no rows for them.
      processor: makes the model's inputs; the tokenizer of a model that reads text, with added tokens.
      added_token_count: the number of tokens in `config.data.added_tokens` that the tokenizer did not have before.
      reader: reads the weights; None if they are in the folder.
    """

    address: str
    folder: Path | None
    hf_config: dict[str, Any]
    processor: Processor
    added_token_count: int = 0
    reader: WeightReader | None = None

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of a model that reads text."""
        return cast(TextProcessor, self.processor).tokenizer


def open_pretrained_model(
    config: Settings, texts: Callable[[], Iterable[str]], *, reads_words: bool, supported: Sequence[str]
) -> PretrainedModel:
    """Opens the checkpoint of `config.model`, without its weights, and adds `config.data.added_tokens`.

    Args:
      config: the run's settings.
      texts: returns the training texts, to train the tokenizer of a new model.
      reads_words: whether texts come split into words.
      supported: the model types that the task supports.

    Raises:
      UserError: the checkpoint is missing or damaged, or does not fit the task or its rows.
    """
    address = config.model.checkpoint
    if address.startswith(NEW):
        folder = None
        hf_config, tokenizer = make_new_model(config, texts())
        vocabulary = _read_fitting_config(config, hf_config, supported).vocab_size
    else:
        folder = resolve_address(address, config.model.revision)
        hf_config = read_config(folder)
        # Before the tokenizer, because transformers would call what is wrong here a fault of the tokenizer.
        vocabulary = _read_fitting_config(config, hf_config, supported).vocab_size
        tokenizer = load_tokenizer(folder, reads_words=reads_words)
        if config.model.init == "pretrained" and not address.startswith(RUN):
            open_tensors(folder)  # says what is wrong with them before the data is encoded
    if (needed := count_token_ids(tokenizer)) > vocabulary:
        raise UserError(
            f"{address}: its tokenizer has tokens up to number {needed - 1:,}, but the model only {vocabulary:,} rows "
            "for them; its tokenizer and config.json do not belong together"
        )
    added_token_count = 0
    if config.data.added_tokens:
        known_tokens = len(tokenizer)
        tokenizer.add_tokens(list(config.data.added_tokens))  # returns a count that includes known tokens
        hf_config["vocab_size"] = max(vocabulary, count_token_ids(tokenizer))
        added_token_count = len(tokenizer) - known_tokens
    _ensure_padding_token(tokenizer, address)
    return PretrainedModel(address, folder, hf_config, TextProcessor(tokenizer), added_token_count)


def _ensure_padding_token(tokenizer: Any, address: str) -> None:
    """Pads with the end token if the tokenizer has no padding token; raises `UserError` if it has neither.

    GPT-2's tokenizer has no padding token. Nothing reads padding, so any token will do, and none has to be added.
    """
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token_id is None:
        raise UserError(
            f"{address}: its tokenizer has no padding token; set pad_token in tokenizer_config.json"
        )


def _read_fitting_config(
    config: Settings, hf_config: Mapping[str, Any], supported: Sequence[str]
) -> ModelConfig:
    """Returns the shape in a config.json; raises `UserError` if the model does not fit the task or its rows."""
    address = config.model.checkpoint
    try:
        model_config = read_model_config(hf_config)
    except UserError as error:
        raise UserError(f"checkpoint {address!r}: {error}") from None
    model_type, prefix_length = hf_config["model_type"], config.adapter.prefix_length
    max_positions = model_config.max_positions - prefix_length
    if model_type not in supported:
        raise UserError(
            f"checkpoint {address!r}: model_type is {model_type!r}, but config.task={config.task!r} is for "
            f"{', '.join(supported)}; choose another checkpoint or task"
        )
    if not model_config.vocab_size and (prefix_length or config.adapter.prompt_length):
        raise UserError(
            f"config.adapter.method={config.adapter.method!r} puts vectors before texts, and the model_type "
            f"{model_type!r} reads images; expected lora, ia3, bottleneck or bitfit"
        )
    if model_config.vocab_size and config.data.max_length > max_positions:
        raise UserError(
            f"config.data.max_length={config.data.max_length}, but {address} has {max_positions} positions"
            + (f" after a prefix of {prefix_length}" if prefix_length else "")
            + "; set it "
            f"to {max_positions} or less; what is longer is cut into windows, or as config.data.truncation says"
        )
    return model_config


def describe_pretrained_model(config: Settings, supported: Sequence[str]) -> dict[str, Any]:
    """Returns the config.json of the model that `config` trains, without reading its weights, tokenizer or data.

    The vocabulary of a new model then has the largest size that its tokenizer may have. New models that cannot be
    trained yet are described too.
    """
    model = config.model
    if model.checkpoint.startswith(NEW):
        hf_config = describe_new_model(config)
    else:
        hf_config = read_config(resolve_address(model.checkpoint, model.revision, weights=()))
    if (size := getattr(config.data, "image_size", None)) is not None:
        hf_config |= {"image_size": size}
    vocabulary = _read_fitting_config(config, hf_config, supported).vocab_size
    return hf_config | ({"vocab_size": vocabulary + len(config.data.added_tokens)} if vocabulary else {})


def resolve_model(
    config: Settings, hf_config: Mapping[str, Any], platform: str | None = None
) -> tuple[ModelConfig, Runtime]:
    """Returns the shape of the backbone, changed by the run's settings, and how it computes.

    Args:
      config: the run's settings.
      hf_config: the checkpoint's config.json.
      platform: "cpu", "gpu" or "tpu"; default: this machine's.

    Returns:
      The shape, and the runtime, without a mesh.

    Raises:
      UserError: the settings contradict each other on this platform.
    """
    platform = platform or jax.default_backend()
    model, model_config = config.model, read_model_config(hf_config)
    if model.dropout is not None:
        rates = [field.name for field in dataclasses.fields(model_config) if field.name.endswith("_dropout")]
        changes: dict[str, Any] = dict.fromkeys(rates, model.dropout)
        model_config = dataclasses.replace(model_config, **changes)
    dtype = jnp.dtype(_choose_dtype(model.dtype, platform))
    attention = choose_attention(
        model.attention,
        length=model_config.count_positions(config.data.max_length if model_config.vocab_size else 1),
        head_width=model_config.hidden_size // max(model_config.num_heads, 1),
        dropout=model_config.attention_dropout,
        features=model_config.attention_features
        | ({Feature.PREFIX} if config.adapter.prefix_length else set()),
        dtype=dtype,
        platform=platform,
    )
    unroll = _choose_unroll(model.unroll, model.remat, platform)
    return model_config, Runtime(
        dtype,
        attention.name,
        model.remat,
        unroll,
        windowed_attention=attention.windowed_name,
        attention_reason=attention.reason,
    )


def _choose_dtype(dtype: str, platform: str) -> str:
    """Returns the dtype of the computation; "auto" is float32 on CPUs and bfloat16 elsewhere."""
    if dtype != "auto":
        return dtype
    return "float32" if platform == "cpu" else "bfloat16"


def _choose_unroll(unroll: str, remat: str, platform: str) -> bool:
    """Returns whether to unroll the scan over layers; "auto" unrolls on CPUs and GPUs, where that is quicker.

    XLA:CPU merges computations that occur twice and so undoes remat, except inside the body of a loop. On CPUs remat
    therefore saves memory only without unrolling. Remat with unroll "yes" raises `UserError` there.
    """
    undoes_remat = platform == "cpu" and remat != "none"
    if undoes_remat and unroll == "yes":
        raise UserError(
            f"config.model.remat={remat} saves no memory on a CPU with config.model.unroll=yes; use unroll=auto"
        )
    if unroll == "auto":
        return platform != "tpu" and not undoes_remat
    return unroll == "yes"


def resolve_head_dropout(config: Settings, hf_config: Mapping[str, Any], kind: HeadKind) -> float:
    """Returns the rate of dropout in a head: `config.model.dropout`, or if unset the checkpoint's rate.

    It is 0 for a kind of head that has no dropout in this family.
    """
    read_dropout = family_of(hf_config).heads[kind].read_dropout
    if read_dropout is None:
        return 0.0
    return read_dropout(hf_config) if config.model.dropout is None else config.model.dropout
