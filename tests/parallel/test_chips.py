"""The table of chips is found by device kind, and is what training measures utilization by."""

from jaxft.parallel import chips


def test_the_table_of_chips_is_what_training_computes_with():
    for chip in chips.CHIPS:
        assert chips.find_chip(f"NVIDIA {chip.device_kind} X") is chip
        assert chips.peak_flops(type("Device", (), {"device_kind": chip.device_kind})) == chip.flops
    assert chips.find_chip("cpu") is None
