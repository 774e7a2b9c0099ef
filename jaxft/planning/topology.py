"""Finds devices to compile for, which need not exist: virtual CPUs, and TPU slices that libtpu describes."""

import os
import re
from collections.abc import Sequence

import jax

from jaxft.errors import UserError

CPU = re.compile(r"cpu:([1-9]\d*)")
# libtpu reads these variables to learn which TPU it runs on. Without them it searches for a long time and prints
# errors. Their values do not matter, because it describes any topology.
LIBTPU_VARIABLES = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # another process may use the TPU
}


def prepare_jax(names: Sequence[str]) -> None:
    """Prepares JAX for `find_devices` with these names. Call it before anything asks JAX for a device.

    Nothing is computed, so this process uses only its CPU and leaves a TPU of this machine to other processes.
    """
    for variable, value in LIBTPU_VARIABLES.items():
        os.environ.setdefault(variable, value)
    try:
        jax.config.update("jax_platforms", "cpu")
        counts = [int(match[1]) for match in map(CPU.fullmatch, names) if match]
        jax.config.update("jax_num_cpu_devices", max([1, *counts]))
    except RuntimeError:  # JAX has started; `find_devices` raises an error if there are too few devices
        pass


def find_devices(name: str) -> list[jax.Device]:
    """Returns the devices of topology `name`: "cpu:8", or a topology of libtpu such as "v5e:4x4".

    Raises:
        UserError: there is no such topology, or libtpu is missing.
    """
    if count := CPU.fullmatch(name):
        devices = jax.devices("cpu")
        if len(devices) < int(count[1]):
            raise UserError(
                f"--topology {name}: JAX has started with {len(devices)} CPU devices; plan in a new process"
            )
        return devices[: int(count[1])]
    if name.startswith("cpu"):
        raise UserError(f"--topology {name}: expected cpu:N with a number of virtual devices, such as cpu:8")
    from jax.experimental import topologies

    # Both cores of a v4 chip are one device, as in JAX on the chip itself.
    options = {"chip_config_name": "megacore"} if name.startswith("v4") else {}
    try:
        return list(topologies.get_topology_desc(name, "tpu", **options).devices)
    except Exception as error:  # libtpu raises several kinds
        first_line = str(error).strip().splitlines()[0]
        if "not installed" in first_line:
            raise UserError(
                f"--topology {name}: libtpu, which describes and compiles for TPUs, is not installed; "
                "pip install libtpu, in the version that `pip show -v jax` names for the extra tpu"
            ) from None
        raise UserError(
            f"--topology {name}: {first_line}; expected cpu:N, or the shape of a TPU slice such as v5e:2x4 "
            "(Cloud's v5litepod-8), v5e:4x4, v6e:8x8 or v4:2x2x1"
        ) from None
