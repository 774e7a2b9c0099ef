"""Counts the FLOPs of matrix products and convolutions in a compiled XLA program: two for each multiply-add."""

import math
import re

import numpy as np

from jaxft.planning.hlo_text import Instruction


def dot_flops(dot: Instruction, left: tuple[int, ...], right: tuple[int, ...]) -> int:
    """Returns the FLOPs of a matrix product of arrays of shapes `left` and `right`."""
    contracted = _parse_numbers(r"lhs_contracting_dims=\{([\d,]*)\}", dot.attributes)
    return 2 * math.prod(dot.arrays[0].dims) * math.prod(left[axis] for axis in contracted)


def convolution_flops(convolution: Instruction, data: tuple[int, ...], kernel: tuple[int, ...]) -> int:
    """Returns the FLOPs of a convolution of arrays of shapes `data` and `kernel`.

    TPU's compiler also writes matrix products as convolutions. A batched product is a strided, dilated convolution over
    its batch. Only positions where the kernel meets data count, as in XLA's HloCostAnalysis.
    """
    labels = re.findall(r"dim_labels=(\w+)_(\w+)->(\w+)", convolution.attributes)
    data_labels, kernel_labels, result_labels = labels[0]
    result = convolution.arrays[0].dims
    groups = _parse_numbers(r"batch_group_count=(\d+)", convolution.attributes) or [1]
    total = 2 * kernel[kernel_labels.index("i")] * result[result_labels.index("f")]
    total *= data[data_labels.index("b")] // groups[0]
    window_text = re.search(r"window=\{([^}]*)\}", convolution.attributes)
    window = dict(re.findall(r"(\w+)=([\d_x\-]+)", window_text[1])) if window_text else {}
    for axis, label in enumerate(sorted(set(data_labels) - set("bf"))):

        def window_number(name: str, default: int, axis: int = axis) -> int:
            if name not in window:
                return default
            return int(window[name].split("x")[axis].split("_")[0])  # padding is "low_high"

        total *= count_meetings(
            positions=result[result_labels.index(label)],
            stride=window_number("stride", 1),
            taps=kernel[kernel_labels.index(label)],
            tap_dilation=window_number("rhs_dilate", 1),
            padding=window_number("pad", 0),
            size=data[data_labels.index(label)],
            data_dilation=window_number("lhs_dilate", 1),
        )
    return total


def count_meetings(
    positions: int, stride: int, taps: int, tap_dilation: int, padding: int, size: int, data_dilation: int
) -> int:
    """Counts how often a tap of a kernel meets an element of the data, along one axis.

    Args:
        positions: the number of positions of the kernel.
        stride: the distance between positions.
        taps: the number of taps of the kernel.
        tap_dilation: the distance between taps.
        padding: the distance from the first position to the first element.
        size: the number of elements of the data.
        data_dilation: the distance between elements.
    """
    first = np.arange(positions) * stride - padding  # the places of tap 0
    low = np.maximum(-(first // tap_dilation), 0)
    high = np.minimum(((size - 1) * data_dilation - first) // tap_dilation, taps - 1)
    # first + tap * tap_dilation is a multiple of data_dilation for every `period`-th tap, or for no tap.
    common = math.gcd(tap_dilation, data_dilation)
    period = data_dilation // common
    start = -(first // common) * pow(tap_dilation // common, -1, period) % period
    counts = (high - start) // period - (low - 1 - start) // period
    return int(np.where(first % common == 0, np.maximum(counts, 0), 0).sum())


def _parse_numbers(pattern: str, text: str) -> list[int]:
    """Returns the comma-separated numbers in the first group of `pattern`; none if it does not match."""
    match = re.search(pattern, text)
    return [int(number) for number in match[1].split(",")] if match and match[1] else []
