"""Declares the settings of the optimizer, and which of them each update rule and each schedule reads."""

import dataclasses
from typing import Any

from jaxft.config.durations import duration
from jaxft.config.settings import Check, below_one, is_finite, not_negative, positive, setting, texts
from jaxft.errors import UserError

# The settings of the optimizers, and of the schedules, that not all of them read.
OPTIMIZERS = {
    "adamw": ("b1", "b2", "eps"),
    "sgd": ("momentum", "nesterov"),
    "adafactor": ("momentum", "parameter_scale"),
    "lion": ("b1", "momentum"),
    "muon": ("momentum", "b1", "b2", "eps"),
    "lamb": ("b1", "b2", "eps"),
}
SCHEDULES = {
    "linear": (),
    "cosine": (),
    "constant": (),
    "polynomial": ("power",),
    "inverse_sqrt": (),
    "warmup_stable_decay": ("cooldown",),
}


@dataclasses.dataclass(frozen=True)
class Optim:
    """The optimizer and its learning rate."""

    lr: float = setting(
        5e-5, "highest learning rate", check=positive("a positive number"), hf="learning_rate"
    )
    name: str = setting(
        "adamw",
        "update rule; `muon` updates the matrices of layers, and `adamw` then the rest; `lion` wants a tenth of the "
        "rate of `adamw`, `sgd` a far higher one",
        choices=tuple(OPTIMIZERS),
        hf="optim",
    )
    schedule: str = setting(
        "linear",
        "course of the learning rate after warmup; `linear`, `cosine`, `polynomial` and `warmup_stable_decay` end at 0",
        choices=tuple(SCHEDULES),
        hf="lr_scheduler_type",
    )
    warmup: Any = setting(
        None,
        "duration of the rise from 0: `0.1` or `10%` of the run, `100` steps, `1 epoch`, `500 examples`",
        check=duration("optim.warmup"),
        hf="warmup_steps, warmup_ratio",
    )
    cooldown: Any = setting(
        0.2,
        "duration of the fall to 0 at the end, as a cosine, with `warmup_stable_decay`; written like `warmup`",
        check=duration("optim.cooldown"),
    )
    power: float = setting(1.0, "power of `polynomial`; 1 is a line", check=positive())
    weight_decay: float = setting(
        0.01, "decay of matrices, see `decay`", check=not_negative(), hf="weight_decay"
    )
    decay: tuple[Any, ...] = setting(
        (),
        "which parameters decay, by patterns over their paths, the first match; without one, matrices do",
        pairs=bool,
        example=r"(('kernel$', True), ('.', False))",
    )
    clip: float = setting(
        1.0, "largest global norm of the gradient; 0: no clipping", check=not_negative(), hf="max_grad_norm"
    )
    gradients: str = setting(
        "float32",
        "dtype in which devices make and exchange the gradients of matrices",
        choices=("float32", "bfloat16"),
    )
    b1: float = setting(
        0.9,
        "decay of the first moment of `adamw`, `lamb` and, for the rest, `muon`; its share in `lion`'s updates",
        check=below_one(),
        hf="adam_beta1",
    )
    b2: float = setting(
        0.999, "decay of the second moment of `adamw`, `lamb`, `muon`", check=below_one(), hf="adam_beta2"
    )
    eps: float = setting(1e-8, "added to the root of that moment", check=positive(), hf="adam_epsilon")
    momentum: float | None = setting(
        None,
        "decay of the momentum; 0: none; unset: 0.9 with `sgd`, 0.95 with `muon`, 0.99 with `lion`, none with "
        "`adafactor`",
        check=below_one(),
    )
    nesterov: bool = setting(False, "Nesterov's momentum with `sgd`; `muon` always has it")
    parameter_scale: bool = setting(
        False, "`adafactor` updates parameters in proportion to their size; the rate is then a share of it"
    )
    moments: str = setting(
        "float32",
        "dtype in which the first moment, or the momentum, is kept; `bfloat16` saves a quarter of the state of `adamw`",
        choices=("float32", "bfloat16"),
    )
    ema: float = setting(
        0.0,
        "decay of an average of the weights, which is then evaluated and exported, such as 0.999; 0: none",
        check=below_one(),
    )
    lr_multipliers: tuple[Any, ...] = setting(
        ((r".", 1.0),),
        "factors of the learning rate, by patterns over parameter paths; the first match wins",
        pairs=int | float,
        check=Check(
            lambda pairs: all(factor >= 0 and is_finite(factor) for _, factor in pairs),
            "finite factors, 0 or more",
        ),
        example="(('^head/', 10.0), ('.', 1.0)) or ^head/=10,.=1",
    )
    layer_decay: float = setting(
        1.0,
        "factor of the rate from each layer to the one below it, such as 0.9: the last layer has 0.9 of the rate, "
        "embeddings the least, the head all of it",
        check=Check(lambda value: 0 < value <= 1, "above 0 and at most 1"),
    )
    l1: float = setting(
        0.0,
        "L1 decay: weights that `decay` names move by this share of the rate towards 0, and become 0 if nearer to it",
        check=not_negative(),
    )
    pull_to_start: float = setting(
        0.0,
        "L2-SP: decay of the backbone's distance from its first weights, such as 0.01; keeps a copy of them in memory "
        "and in checkpoints",
        check=not_negative(),
    )
    freeze: tuple[Any, ...] = setting(
        (),
        "patterns over paths of parameters that are not trained",
        check=texts("patterns, ('^backbone/',)"),
        example="('^backbone/',)",
    )

    def check(self) -> None:
        """Raises `UserError` if a setting is set that the run's update rule or schedule does not read."""
        for choice, read in (("name", OPTIMIZERS), ("schedule", SCHEDULES)):
            chosen = getattr(self, choice)
            for field in dataclasses.fields(self):
                readers = [name for name, fields in read.items() if field.name in fields]
                value = getattr(self, field.name)
                if readers and chosen not in readers and value != field.default:
                    raise UserError(
                        f"config.optim.{field.name}={value!r} is a setting of {' and '.join(readers)}; this run's "
                        f"config.optim.{choice} is {chosen!r}: leave the setting out, or change config.optim.{choice}"
                    )
