"""Declares the settings of adapters, which PEFT calls by the same names, and which of them each method reads."""

import dataclasses
from typing import Any

from jaxft.config.durations import duration
from jaxft.config.settings import Check, at_least, below_one, not_negative, positive, setting, texts
from jaxft.errors import UserError

NO_ADAPTER = "none"
ALL_LINEAR = "all-linear"  # among `target_modules`: every linear layer of the backbone
_TARGETS = ("target_modules", "layers_to_transform")

# The settings that each method reads, besides those that all of them read.
METHODS: dict[str, tuple[str, ...]] = {
    "lora": (
        *_TARGETS,
        *("r", "alpha", "dropout", "bias", "rank_pattern", "alpha_pattern"),
        *("init_lora_weights", "use_rslora", "use_dora", "loraplus_lr_ratio"),
    ),
    "adalora": (
        *_TARGETS,
        *("init_r", "target_r", "tinit", "tfinal", "deltaT", "beta1", "beta2", "orth_reg_weight"),
        *("alpha", "dropout", "bias", "rank_pattern"),
    ),
    "bitfit": (),
    "ia3": (*_TARGETS, "feedforward_modules"),
    "bottleneck": (*_TARGETS, "r", "dropout", "placement", "activation"),
    "prefix": ("num_virtual_tokens", "prefix_projection", "encoder_hidden_size"),
    "prompt": ("num_virtual_tokens", "prompt_tuning_init", "prompt_tuning_init_text"),
}
_EVERY_METHOD = ("method", "init_from", "modules_to_save", "base_dtype")
# Settings of adapters without which their values would mean something else.
OF_FUNCTION = (
    *("method", "target_modules", "feedforward_modules", "layers_to_transform", "modules_to_save", "bias"),
    *("r", "init_r", "alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora"),
    *("placement", "activation", "num_virtual_tokens"),
)


@dataclasses.dataclass(frozen=True)
class Adapter:
    """The adapters: few parameters that are added to a frozen model, and trained in place of its weights."""

    method: str = setting(
        NO_ADAPTER,
        "adapters to train; `none` trains all weights. Heads are always trained",
        choices=(NO_ADAPTER, *METHODS),
        hf="peft_type",
    )
    init_from: str | None = setting(
        None,
        "adapter in PEFT's files to start from, folder or hub id; it sets the other settings that describe one",
    )
    target_modules: tuple[Any, ...] = setting(
        (),
        "linear layers that get adapters: ends of their names in transformers or here, patterns over entire names, or "
        "`all-linear`; unset: the usual ones of the model's family",
        check=texts("names, ('query', 'value')"),
        example="('query', 'value')",
    )
    feedforward_modules: tuple[Any, ...] = setting(
        (),
        "those of the target modules whose inputs, not outputs, `ia3` scales; unset: the usual ones of the family",
        check=texts("names, ('output.dense',)"),
        example="('output.dense',)",
    )
    layers_to_transform: tuple[Any, ...] = setting(
        (),
        "numbers of the layers that get adapters, from 0; unset: all",
        check=Check(
            lambda numbers: all(type(number) is int and number >= 0 for number in numbers), "numbers, (0, 1)"
        ),
        example="(0, 1)",
    )
    modules_to_save: tuple[Any, ...] = setting(
        (),
        "modules that are trained completely, besides the heads: ends of their names, such as `pooler`",
        check=texts("names, ('pooler',)"),
        example="('pooler',)",
    )
    base_dtype: str = setting(
        "float32",
        "dtype of the frozen matrices in memory: `bfloat16`, or `int8` for linear layers, with a scale for each output",
        choices=("float32", "bfloat16", "int8"),
    )
    init_r: int = setting(12, "rank of `adalora` at the start", check=at_least(1))
    target_r: int = setting(8, "mean rank of `adalora` in the end", check=at_least(1))
    tinit: Any = setting(
        0,
        "duration of the start, in which `adalora` keeps all ranks; written like `optim.warmup`",
        check=duration("adapter.tinit"),
    )
    tfinal: Any = setting(
        0,
        "duration of the end, in which ranks no longer change; written like `optim.warmup`",
        check=duration("adapter.tfinal"),
    )
    deltaT: int = setting(1, "steps from one choice of ranks to the next", check=at_least(1))
    beta1: float = setting(0.85, "decay of the mean sensitivity of values", check=below_one())
    beta2: float = setting(0.85, "decay of the mean uncertainty of values", check=below_one())
    orth_reg_weight: float = setting(
        0.5,
        "weight of the term that keeps the matrices of `adalora` near to orthonormal",
        check=not_negative(),
    )
    r: int = setting(8, "rank of `lora`, width of `bottleneck`", check=at_least(1))
    alpha: float = setting(
        8.0, "the product of two matrices is multiplied by `alpha / r`", check=positive(), hf="lora_alpha"
    )
    rank_pattern: tuple[Any, ...] = setting(
        (),
        "ranks of some modules, by ends of their names or patterns",
        pairs=int,
        check=Check(lambda pairs: all(rank >= 1 for _, rank in pairs), "ranks of 1 or more"),
        example="(('layer.0.attention.self.query', 16),)",
    )
    alpha_pattern: tuple[Any, ...] = setting(
        (),
        "`alpha` of some modules, by ends of their names or patterns",
        pairs=int | float,
        check=Check(lambda pairs: all(alpha > 0 for _, alpha in pairs), "values above 0"),
        example="(('query', 16),)",
    )
    use_rslora: bool = setting(False, "multiplies by `alpha / sqrt(r)` instead (rsLoRA)")
    use_dora: bool = setting(False, "also trains the length of each column of a weight (DoRA)")
    init_lora_weights: str = setting(
        "true",
        "first values: `true` and `gaussian` draw one matrix, the other is 0; `pissa` and `olora` take them from the "
        "weight and leave the rest of it frozen; `false` draws both, for tests",
        choices=("true", "gaussian", "pissa", "olora", "false"),
    )
    loraplus_lr_ratio: float = setting(
        1.0, "factor of the learning rate of the second matrix (LoRA+), such as 16", check=positive()
    )
    dropout: float = setting(
        0.0, "rate of dropout of what adapters read", check=below_one(), hf="lora_dropout"
    )
    bias: str = setting(
        "none",
        "biases that are trained too: `none`, `all`, or those of layers with adapters (`lora_only`)",
        choices=("none", "all", "lora_only"),
    )
    placement: str = setting(
        "houlsby",
        "where a bottleneck stands: after attention and after the MLP (`houlsby`), or after the MLP (`pfeiffer`)",
        choices=("houlsby", "pfeiffer"),
    )
    activation: str = setting("gelu", "activation within a bottleneck", choices=("gelu", "relu", "silu"))
    num_virtual_tokens: int = setting(
        20,
        "number of keys that `prefix` adds to each layer, or of vectors that `prompt` puts before each text",
        check=at_least(1),
    )
    prefix_projection: bool = setting(
        False, "makes keys and values of `prefix` by a network of two layers, which is left out of exports"
    )
    encoder_hidden_size: int | None = setting(
        None, "width within that network; unset: the width of the model", check=at_least(1)
    )
    prompt_tuning_init: str = setting(
        "RANDOM",
        "first vectors of `prompt`: `RANDOM`, or the embeddings of the tokens of a `TEXT`",
        choices=("RANDOM", "TEXT"),
    )
    prompt_tuning_init_text: str | None = setting(
        None, "that text, which is repeated or cut to the number of vectors", example="'Classify the text'"
    )

    @property
    def is_used(self) -> bool:
        """Returns whether the run trains adapters."""
        return self.method != NO_ADAPTER or self.init_from is not None

    @property
    def rank(self) -> int:
        """Returns the rank at the start of adapters that `rank_pattern` does not name."""
        return self.init_r if self.method == "adalora" else self.r

    @property
    def prefix_length(self) -> int:
        """Returns the number of keys that each layer has besides those of texts."""
        return self.num_virtual_tokens if self.method == "prefix" else 0

    @property
    def prompt_length(self) -> int:
        """Returns the number of slots before the tokens of each text."""
        return self.num_virtual_tokens if self.method == "prompt" else 0

    def check(self) -> None:
        """Raises `UserError` if a setting is set that the run's method does not read, or two contradict each other."""
        if self.method == NO_ADAPTER and self.init_from is not None:
            return  # the adapter says its method, and this is checked again
        read = (*_EVERY_METHOD, *METHODS[self.method]) if self.is_used else ("method",)
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name not in read and value != field.default:
                readers = [name for name, fields in METHODS.items() if field.name in fields] or list(METHODS)
                raise UserError(
                    f"config.adapter.{field.name}={value!r} is a setting of {' and '.join(readers)}; this run's "
                    f"config.adapter.method is {self.method!r}: leave the setting out, or change config.adapter.method"
                )
        if self.method == "adalora":
            highest = max([self.target_r, *(rank for _, rank in self.rank_pattern)])
            if highest > self.init_r:
                raise UserError(
                    f"config.adapter.init_r={self.init_r}: config.adapter.target_r or rank_pattern is {highest}, and "
                    "ranks only fall; expected none above init_r"
                )
        if (self.prompt_tuning_init == "TEXT") != bool(self.prompt_tuning_init_text):
            raise UserError(
                f"config.adapter.prompt_tuning_init={self.prompt_tuning_init!r} with "
                f"config.adapter.prompt_tuning_init_text={self.prompt_tuning_init_text!r}: expected a text with "
                "'TEXT', and none with 'RANDOM'"
            )
        if self.encoder_hidden_size and not self.prefix_projection:
            raise UserError(
                f"config.adapter.encoder_hidden_size={self.encoder_hidden_size} is the width of a network that the run "
                "does not have; set config.adapter.prefix_projection=True, or leave it out"
            )
