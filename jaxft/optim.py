"""Learning-rate schedules and the optax AdamW whose decay, rates and freezing follow rules of parameter paths."""

import optax
from ml_collections import ConfigDict

from jaxft import paths
from jaxft.errors import UserError


def make_schedule(config: ConfigDict, *, total: int, warmup: int) -> optax.Schedule:
    """Learning rate by step: `warmup` steps up from 0, then linear or cosine to 0 at `total`, or constant.

    Equal to Hugging Face's `get_scheduler` at every step: step 0 has rate 0 under warmup.
    """
    if warmup > total:
        raise UserError(f"config.optim.warmup is {warmup} steps, but the run has {total}; shorten the warmup")
    peak, rest = config.optim.lr, max(1, total - warmup)
    after = {
        "linear": optax.linear_schedule(peak, 0.0, rest),
        "cosine": optax.cosine_decay_schedule(peak, rest),
        "constant": optax.constant_schedule(peak),
    }[config.optim.schedule]
    if not warmup:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), after], [warmup])


def split_frozen(config: ConfigDict, names: list[str]) -> tuple[list[str], list[str]]:
    """(trainable, frozen) parameter paths by `config.optim.freeze`."""
    rules = [(pattern, True) for pattern in config.optim.freeze]
    frozen = paths.first_match(rules, names, what="config.optim.freeze")
    trainable = [name for name in names if name not in frozen]
    if not trainable:
        raise UserError(
            f"config.optim.freeze={config.optim.freeze} freezes every parameter; nothing is trained"
        )
    return trainable, [name for name in names if name in frozen]


def make_optimizer(
    config: ConfigDict, schedule: optax.Schedule, trainable: list[str]
) -> optax.GradientTransformation:
    """AdamW (Loshchilov & Hutter 2019) over flat parameters {path: array} with rules by path.

    Decays what `config.optim.decay` says (matrices only by default) and multiplies rates by
    `config.optim.lr_multipliers`. Clipping is the train step's.
    """
    optim = config.optim
    decayed = paths.first_match(
        optim.decay, trainable, what="config.optim.decay", require_cover=True, allow_unused=True
    )
    multipliers = paths.first_match(
        optim.lr_multipliers, trainable, what="config.optim.lr_multipliers", require_cover=True
    )
    steps = [
        optax.scale_by_adam(optim.b1, optim.b2, optim.eps),
        optax.add_decayed_weights(optim.weight_decay, mask=decayed),
    ]
    if any(value != 1.0 for value in multipliers.values()):
        steps.append(
            optax.stateless(lambda updates, _: {name: u * multipliers[name] for name, u in updates.items()})
        )
    return optax.chain(*steps, optax.scale_by_learning_rate(schedule))
