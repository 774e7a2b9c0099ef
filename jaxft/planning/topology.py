"""Devices to compile for that need not be here: virtual CPUs, and TPU slices as libtpu describes them."""

import os
import re
from collections.abc import Sequence

import jax

from jaxft.errors import UserError

CPU = re.compile(r"cpu:([1-9]\d*)")
# What libtpu would look for to learn which TPU it runs on: in vain, at length and aloud. It describes any other alike.
NOT_HERE = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # beside a process that computes
}


def prepare(names: Sequence[str]) -> None:
    """Makes JAX ready for `devices` of these names; to be called before anything asks JAX for a device.

    Nothing is computed, so the process itself stays on its CPU, and a TPU that is there is left alone.
    """
    for variable, value in NOT_HERE.items():
        os.environ.setdefault(variable, value)
    try:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update(
            "jax_num_cpu_devices", max([1, *(int(m[1]) for m in map(CPU.fullmatch, names) if m)])
        )
    except RuntimeError:  # JAX has started; `devices` says if there are too few
        pass


def devices(name: str) -> list[jax.Device]:
    """The devices of topology `name`: "cpu:8", or one of libtpu's such as "v5e:4x4".

    Raises `UserError` for a name that is neither, or where libtpu is missing.
    """
    if count := CPU.fullmatch(name):
        found = jax.devices("cpu")
        if len(found) < int(count[1]):
            raise UserError(
                f"--topology {name}: JAX has started with {len(found)} CPU devices; plan in a new process"
            )
        return found[: int(count[1])]
    if name.startswith("cpu"):
        raise UserError(f"--topology {name}: expected cpu:N with a number of virtual devices, such as cpu:8")
    from jax.experimental import topologies

    # Both cores of a v4 chip as one device, as JAX has them on the chip itself.
    options = {"chip_config_name": "megacore"} if name.startswith("v4") else {}
    try:
        return list(topologies.get_topology_desc(name, "tpu", **options).devices)
    except Exception as error:  # libtpu raises several kinds
        first = str(error).strip().splitlines()[0]
        if "not installed" in first:
            raise UserError(
                f"--topology {name}: libtpu, which describes and compiles for TPUs, is not installed; "
                "pip install libtpu, in the version that `pip show -v jax` names for the extra tpu"
            ) from None
        raise UserError(
            f"--topology {name}: {first}; expected cpu:N, or a TPU slice such as v5e:4x4, v6e:8x8 or v4:2x2x1"
        ) from None
