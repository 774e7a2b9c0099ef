"""Joins the processes of a run, from flags or from the environment of a TPU slice, Slurm or Kubernetes."""

import argparse
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax

from jaxft.errors import UserError, first_line
from jaxft.parallel import rendezvous
from jaxft.parallel.jax_internals import ClusterEnv, backends_are_initialized

EXPLICIT_FLAGS = ("coordinator", "num_processes", "process_id")
# Every Kubernetes pod has variables that name the cluster. Only pods of an indexed job or a TPU slice have these.
JOB_VARIABLES = {"JOB_COMPLETION_INDEX", "TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES"}


class Launch(NamedTuple):
    """The place of this process among the processes of its run."""

    coordinator: str  # the address of process 0, "HOST:PORT"
    num_processes: int
    process_id: int
    device_ids: Sequence[int] | None  # this process's devices on its host; None for all


def join_processes(flags: argparse.Namespace) -> None:
    """Waits for all processes and starts jax's coordination service. Does nothing if there is only one process.

    Args:
        flags: the flags of `jaxft.cli.flags.add_process_flags`.

    Raises:
        UserError: a flag is wrong, or a process is missing. The message names it.
    """
    is_explicit = _check_flags(flags)
    is_lone_pod = "KUBERNETES_SERVICE_HOST" in os.environ and not JOB_VARIABLES & os.environ.keys()
    if flags.num_processes == 1 or (is_lone_pod and not is_explicit):
        return
    if is_explicit:
        launch: Launch | None = Launch(
            flags.coordinator, flags.num_processes, flags.process_id, device_ids=None
        )
    else:
        launch = _detect_launch(flags.start_timeout)
    if launch is None:
        return
    if launch.num_processes > 1:
        run_folder = getattr(flags, "workdir", None)  # only its processes share a folder that they write
        rendezvous.wait_for_all(
            launch.coordinator,
            launch.num_processes,
            launch.process_id,
            flags.start_timeout,
            None if run_folder is None or "://" in str(run_folder) else Path(run_folder),
        )
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # jax's service would catch SIGTERM, which `heartbeat` handles.
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(
        coordinator_address=launch.coordinator,
        num_processes=launch.num_processes,
        process_id=launch.process_id,
        local_device_ids=launch.device_ids,
        cluster_detection_method="deactivate",
        initialization_timeout=flags.start_timeout,
        # `heartbeat` must notice a lost process before jax does, because only `heartbeat` names the process.
        heartbeat_timeout_seconds=flags.peer_timeout + 30,
    )


def _detect_launch(timeout: int) -> Launch | None:
    """Returns this process's place in the cluster that jax detects.

    Returns None if jax detects no cluster, or if this command runs in a program that already uses jax's devices.
    """
    if backends_are_initialized():
        return None
    try:
        address, count, index, devices = ClusterEnv.auto_detect_unset_distributed_params(
            os.environ.get("JAX_COORDINATOR_ADDRESS"), None, None, _all_gpus_of_slurm(), None, timeout
        )
    except RuntimeError as error:
        raise UserError(
            f"jax cannot make out the processes of this cluster ({first_line(error)}); give --coordinator, "
            "--num_processes and --process_id"
        ) from None
    number = os.environ.get("JOB_COMPLETION_INDEX")
    if address is None and number is not None:
        raise UserError(
            f"this is pod {number} of an indexed Kubernetes job, but jax finds no others: give --coordinator, "
            "--num_processes and --process_id, as launch/kubernetes.sh does (--num_processes 1 where it is alone), "
            "or install the package kubernetes and let pods read pods"
        )
    if address is None:
        return None
    if count is None or index is None:
        raise UserError(
            "JAX_COORDINATOR_ADDRESS is set, but there is no cluster that says which of how many processes this is; "
            "give --coordinator, --num_processes and --process_id"
        )
    return Launch(address, count, index, None if "JAX_LOCAL_DEVICE_IDS" in os.environ else devices)


def _all_gpus_of_slurm() -> list[int] | None:
    """Returns all GPUs of the node if Slurm runs one task on it, because jax would use only the first; else None."""
    tasks, gpus = os.environ.get("SLURM_STEP_TASKS_PER_NODE", ""), os.environ.get("SLURM_GPUS_ON_NODE", "")
    return list(range(int(gpus))) if re.fullmatch(r"1(\(x\d+\))?", tasks) and gpus.isdecimal() else None


def _check_flags(flags: argparse.Namespace) -> bool:
    """Returns whether the flags say which process this is. Raises `UserError` if they are incomplete or wrong."""
    for name in ("start_timeout", "peer_timeout"):
        if getattr(flags, name) < 1:
            raise UserError(f"--{name} {getattr(flags, name)}: expected 1 second or more")
    missing = [f"--{name}" for name in EXPLICIT_FLAGS if getattr(flags, name) is None]
    is_lone = flags.num_processes == 1 and len(missing) == len(EXPLICIT_FLAGS) - 1
    if len(missing) == len(EXPLICIT_FLAGS) or is_lone:
        return False
    if missing:
        raise UserError(
            f"{' and '.join(missing)} missing: give --coordinator, --num_processes and --process_id together, or "
            "none of them where a TPU slice, Slurm or Kubernetes says what they are"
        )
    host, _, port = flags.coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise UserError(
            f"--coordinator {flags.coordinator}: expected HOST:PORT, the host that process 0 runs on"
        )
    if flags.num_processes < 1 or not 0 <= flags.process_id < flags.num_processes:
        raise UserError(
            f"--process_id {flags.process_id} of --num_processes {flags.num_processes}: expected numbers from 0 to "
            f"{max(flags.num_processes - 1, 0)}, each once"
        )
    return True
