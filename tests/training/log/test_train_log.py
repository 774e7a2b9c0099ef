"""The log line of a training interval."""

from jaxft.training.log.train_log import format_train_line


def test_the_line_of_a_step():
    values = {"loss": 1.23456, "grad_norm": 2.5, "lr": 3e-5, "real_tokens_per_s": 12345.6}
    values |= {"padding_fraction": 0.011, "input_stall_fraction": 0.002}
    line = format_train_line(20, 400, values)
    assert line == (
        "step 20/400  loss 1.2346  grad norm 2.50  lr 3.00e-05  12,346 tokens/s  padding 1.1%  input stall 0.2%"
    )
    assert format_train_line(20, 400, values | {"mfu": 0.4321}) == line + "  MFU 43.2%"
