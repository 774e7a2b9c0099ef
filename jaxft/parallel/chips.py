"""Lists the limits of accelerators: memory, arithmetic, memory bandwidth and interconnect of one device."""

import dataclasses

import jax

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """The data-sheet numbers of one device, as JAX counts devices."""

    name: str  # for flags and messages
    device_kind: str  # a part of `jax.Device.device_kind`
    memory: int  # bytes
    flops: float  # dense bfloat16 FLOP/s
    bandwidth: float  # memory bandwidth, bytes/s
    interconnect: float  # to other devices over all links, bytes/s in one direction


# A device is the first chip whose `device_kind` is part of the device's. Sources, read in November 2026: "TPU v4",
# "TPU v5e", "TPU v5p" and "TPU v6e" at docs.cloud.google.com/tpu/docs, where the interconnect is the sum of both
# directions. v4's interconnect is six links of 45 GB/s, from "How to Scale Your Model"
# (jax-ml.github.io/scaling-book), part 2. NVIDIA's data sheets of A100 80GB SXM, H100 SXM and PCIe, and H200 SXM,
# without sparsity; one direction is half of NVLink's total.
CHIPS = (
    Chip("v4", "TPU v4", 32 * GIB, 275e12, 1.2e12, 270e9),
    Chip("v5e", "TPU v5 lite", 16 * GIB, 197e12, 819e9, 200e9),
    Chip("v5p", "TPU v5", 95 * GIB, 459e12, 2.765e12, 600e9),  # jax's name for v5p
    Chip("v6e", "TPU v6 lite", 32 * GIB, 918e12, 1.6e12, 400e9),
    Chip("a100", "A100", 80 * 10**9, 312e12, 2.039e12, 300e9),
    Chip("h100-pcie", "H100 PCIe", 80 * 10**9, 756e12, 2.0e12, 64e9),
    Chip("h100", "H100", 80 * 10**9, 989e12, 3.35e12, 450e9),
    Chip("h200", "H200", 141 * 10**9, 989e12, 4.8e12, 450e9),
)


def find_chip(device_kind: str) -> Chip | None:
    """Returns the chip of a `jax.Device.device_kind`, or None if it is unknown, as for CPUs."""
    return next((chip for chip in CHIPS if chip.device_kind in device_kind), None)


def peak_flops(device: jax.Device) -> float | None:
    """Returns the peak bfloat16 FLOP/s of `device`, or None if it is unknown, as for CPUs."""
    chip = find_chip(device.device_kind)
    return None if chip is None else chip.flops
