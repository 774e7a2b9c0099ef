"""Starts a command as one of several processes, and ends it with them."""

import argparse
import os
import re

import jax

from jaxft.errors import (
    UserError,
)
from jaxft.parallel import rendezvous
from jaxft.parallel.jax_internals import ClusterEnv, backends_are_initialized

EXPLICIT = ("coordinator", "num_processes", "process_id")
# Kubernetes tells every pod that it is there; these tell of an indexed job and of a TPU slice.
JOBS = {"JOB_COMPLETION_INDEX", "TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES"}


def join_processes(flags: argparse.Namespace) -> None:
    """Waits for all processes and starts jax's coordination service; does nothing where there is only one.

    Raises `UserError` for flags that cannot be, or where a process is missing, which it names.
    """
    explicit = _check(flags)
    lone_pod = "KUBERNETES_SERVICE_HOST" in os.environ and not JOBS & os.environ.keys()
    if flags.num_processes == 1 or (lone_pod and not explicit):
        return
    address, count, index, devices = flags.coordinator, flags.num_processes, flags.process_id, None
    if not explicit:
        address, count, index, devices = _recognised(flags.start_timeout)
        if address is None:
            return
    if count > 1:
        rendezvous.wait_for_all(address, count, index, flags.start_timeout)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # It would catch SIGTERM, which watch.py carries.
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(
        coordinator_address=address,
        num_processes=count,
        process_id=index,
        local_device_ids=devices,
        cluster_detection_method="deactivate",
        initialization_timeout=flags.start_timeout,
        # watch.py comes first, for it names the process that is lost.
        heartbeat_timeout_seconds=flags.peer_timeout + 30,
    )


def _recognised(timeout: int) -> tuple[str | None, int, int, list[int] | None]:
    """Address of process 0, number of processes, which this is, and its devices (None: all), as jax finds them.

    No address: one process, for there is no cluster that jax knows, or another's command is run within it.
    """
    if backends_are_initialized():
        return None, 1, 0, None
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
    if address is not None and (count is None or index is None):
        raise UserError(
            "JAX_COORDINATOR_ADDRESS is set, but there is no cluster that says which of how many processes this is; "
            "give --coordinator, --num_processes and --process_id"
        )
    return address, count, index, None if "JAX_LOCAL_DEVICE_IDS" in os.environ else devices


def _all_gpus_of_slurm() -> list[int] | None:
    """All GPUs of the node where Slurm has one task there, of which jax would take the first only; else None."""
    tasks, gpus = os.environ.get("SLURM_STEP_TASKS_PER_NODE", ""), os.environ.get("SLURM_GPUS_ON_NODE", "")
    return list(range(int(gpus))) if re.fullmatch(r"1(\(x\d+\))?", tasks) and gpus.isdecimal() else None


def _check(flags: argparse.Namespace) -> bool:
    """Whether the flags say which process this is. Raises `UserError` where they do so in part or wrongly."""
    for name in ("start_timeout", "peer_timeout"):
        if getattr(flags, name) < 1:
            raise UserError(f"--{name} {getattr(flags, name)}: expected 1 second or more")
    missing = [f"--{name}" for name in EXPLICIT if getattr(flags, name) is None]
    if len(missing) == len(EXPLICIT) or (flags.num_processes == 1 and len(missing) == len(EXPLICIT) - 1):
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


def first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0][:300]
