"""The log line of a training interval, and the loss next to the progress bar."""

from types import SimpleNamespace

import numpy as np

from jaxft.data.batching.batch import Shape
from jaxft.training.log.train_log import TrainLog, format_train_line


def test_the_line_of_a_step():
    values = {"loss": 1.23456, "grad_norm": 2.5, "lr": 3e-5, "real_tokens_per_s": 12345.6}
    values |= {"padding_fraction": 0.011, "input_stall_fraction": 0.002}
    line = format_train_line(20, 400, values)
    assert line == (
        "step 20/400  loss 1.2346  grad norm 2.50  lr 3.00e-05  12,346 tokens/s  padding 1.1%  input stall 0.2%"
    )
    assert format_train_line(20, 400, values | {"mfu": 0.4321}) == line + "  MFU 43.2%"


def test_the_bar_shows_the_mean_loss_since_the_last_line():
    shown = []
    run_log = SimpleNamespace(
        show=lambda **texts: shown.append(texts["loss"]), log=lambda _: None, write=lambda *_: None
    )
    options = {"total": 9, "every_steps": 2, "steps_per_epoch": 9, "flops_per_unit": 1.0, "peak_flops": None}
    batches = SimpleNamespace(stall=0.0)
    train_log = TrainLog(run_log, batches, None, **options, unit="token", progress={})
    batch = SimpleNamespace(shape=Shape(1, 8))
    for step, (loss, weight) in enumerate([(1.0, 1.0), (3.0, 3.0), (0.25, 1.0)], 1):
        values = {"loss": loss, "weight": weight, "grad_norm": 1.0, "lr": 0.1, "units": 8}
        train_log.add(step, batch, {name: np.float32(value) for name, value in values.items()})
        train_log.drain(keep=0)
    assert shown == ["loss 1.0000", "loss 2.5000", "loss 0.2500"]
