"""Processes of a run find each other by flags, on TPU slices, under Slurm and on Kubernetes, or say who is missing."""

import argparse
import re
import socket
import subprocess

import jax
import pytest
from jax._src.clusters import cloud_tpu_cluster
from jax._src.clusters import cluster as cluster_base

from jaxft.cli.flags import add_process_flags
from jaxft.cli.several_processes import as_process
from jaxft.errors import EXIT_USER_ERROR
from jaxft.parallel import launch_detection, rendezvous
from jaxft.parallel.jax_internals import ClusterEnv
from tests.conftest import free_port


@pytest.fixture
def joined(monkeypatch) -> dict:
    """Records the options of jax's start, and `waited_for`, the arguments of the rendezvous; neither happens."""
    options = {}
    monkeypatch.setattr(jax.distributed, "initialize", lambda **start_options: options.update(start_options))
    monkeypatch.setattr(rendezvous, "wait_for_all", lambda *arguments: options.update(waited_for=arguments))
    monkeypatch.setattr(launch_detection, "backends_are_initialized", lambda: False)
    return options


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_process_flags(parser)
    return parser.parse_args(words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--coordinator", "a:1"],
            "--num_processes and --process_id missing: give .* together, or none of them",
        ),
        (["--process_id", "0", "--num_processes", "2"], "--coordinator missing"),
        (["--coordinator", "a", "--num_processes", "2", "--process_id", "0"], "expected HOST:PORT"),
        (
            ["--coordinator", "a:1", "--num_processes", "2", "--process_id", "2"],
            "expected numbers from 0 to 1, each",
        ),
        (["--peer_timeout", "0"], "--peer_timeout 0: expected 1 second or more"),
    ],
)
def test_flags_that_cannot_be_are_refused(words, message, capsys):
    with pytest.raises(SystemExit) as ended, as_process(parse(*words)):
        pass
    assert ended.value.code == EXIT_USER_ERROR
    assert re.search(message, capsys.readouterr().err)


def test_a_port_that_is_taken_is_named(capsys):
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = other.getsockname()[1]
        flags = parse("--coordinator", f"localhost:{port}", "--num_processes", "2", "--process_id", "0")
        with pytest.raises(SystemExit), as_process(flags):
            pass
    assert f"port {port} cannot be had here (Address already in use)" in capsys.readouterr().err


SLURM = {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "localhost", "SLURM_LOCALID": "0"}
SCRIPT = """
import argparse, jax

from jaxft.cli.flags import add_process_flags
from jaxft.cli.several_processes import as_process
from jaxft.parallel import processes
from jaxft.parallel.mesh import describe_local_devices
from jaxft.training.run_folder.identity import installed_versions

parser = argparse.ArgumentParser()
add_process_flags(parser)
with as_process(parser.parse_args()):
    processes.assert_same(installed_versions() | describe_local_devices())
    print(processes.gather([processes.index(), jax.process_index(), jax.device_count()]))
"""


def test_slurms_processes_find_each_other_and_say_who_is_missing(environment, python, tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    slurm = environment | SLURM | {"SLURM_NTASKS": "2", "JAX_COORDINATOR_PORT": str(free_port())}

    def start(*numbers: int, timeout: int, second: str = "") -> list[subprocess.Popen]:
        return [
            subprocess.Popen(
                [*python, tmp_path / "script.py", "--start_timeout", str(timeout)],
                env=slurm
                | {
                    "SLURM_PROCID": str(number),
                    "XLA_FLAGS": f"{slurm['XLA_FLAGS']} {second if number else ''}",
                },
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for number in numbers
        ]

    for process in start(0, 1, timeout=60):
        stdout, stderr = process.communicate(timeout=60)
        assert process.returncode == 0 and "[[0, 0, 2], [1, 1, 2]]" in stdout, stderr
    for process in start(0, 1, timeout=60, second="--xla_force_host_platform_device_count=2"):
        _, stderr = process.communicate(timeout=60)
        assert process.returncode == EXIT_USER_ERROR
        assert "devices is '2 x cpu', not '1 x cpu'; start it" in stderr
    [alone] = start(0, timeout=1)
    _, stderr = alone.communicate(timeout=60)
    assert alone.returncode == EXIT_USER_ERROR and "Traceback" not in stderr
    assert "error: process 0: after 1 s 1 of 2 processes are missing (1); see that they reach" in stderr


@pytest.mark.parametrize("kind", ["queued resource", "GKE"])
def test_what_a_tpu_slice_says_starts_a_process(monkeypatch, joined, kind):
    metadata = {"agent-worker-number": "2", "worker-network-endpoints": "::h0,::h1,::h2,::h3", "tpu-env": ""}
    if kind == "GKE":
        monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "h0,h1,h2,h3")
        monkeypatch.setenv("TPU_WORKER_ID", "2")
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
        metadata = {"tpu-env": ""}
    monkeypatch.delenv("TPU_SKIP_MDS_QUERY", raising=False)
    monkeypatch.setattr(cloud_tpu_cluster, "running_in_cloud_tpu_vm", True)
    monkeypatch.setattr(cluster_base, "running_in_cloud_tpu_vm", True)
    monkeypatch.setattr(
        cloud_tpu_cluster,
        "get_metadata",
        lambda key: (metadata.get(key, ""), 200 if metadata.get(key) else 404),
    )
    monkeypatch.setattr(cloud_tpu_cluster.socket, "gethostbyname", lambda name: name)
    with as_process(parse()):
        pass
    assert joined["waited_for"] == ("h0:8482", 4, 2, 300, None)
    assert joined["coordinator_address"] == "h0:8482" and joined["local_device_ids"] is None
    assert (joined["num_processes"], joined["process_id"]) == (4, 2)


def test_what_slurm_says_starts_a_process(monkeypatch, joined):
    """jax reads who is who; of several GPUs on a node with one task jax itself would take only the first."""
    tasks = {"SLURM_NTASKS": "4", "SLURM_PROCID": "3", "SLURM_STEP_TASKS_PER_NODE": "1(x4)"}
    for name, value in (SLURM | tasks | {"SLURM_GPUS_ON_NODE": "8"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SLURM_STEP_NODELIST", "node[07-10]")
    with as_process(parse("--peer_timeout", "7")):
        pass
    assert (
        joined["waited_for"] == (joined["coordinator_address"], 4, 3, 300, None)
        and joined["num_processes"] == 4
    )
    assert joined["coordinator_address"].startswith("node07:") and joined["process_id"] == 3
    assert joined["local_device_ids"] == list(range(8)) and joined["heartbeat_timeout_seconds"] == 37
    monkeypatch.setenv("SLURM_STEP_TASKS_PER_NODE", "8(x4)")
    monkeypatch.setenv("SLURM_LOCALID", "5")
    with as_process(parse()):
        pass
    assert joined["local_device_ids"] == [5]


def test_a_pod_of_a_job_does_not_train_alone_unasked(monkeypatch, capsys):
    monkeypatch.setattr(launch_detection, "backends_are_initialized", lambda: False)
    monkeypatch.setattr(ClusterEnv, "_cluster_types", [])  # the package kubernetes is not installed
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    with as_process(parse()):  # a pod by itself
        pass
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "3")
    with pytest.raises(SystemExit) as ended, as_process(parse()):
        pass
    assert ended.value.code == EXIT_USER_ERROR
    assert (
        "error: this is pod 3 of an indexed Kubernetes job, but jax finds no others: give"
        in capsys.readouterr().err
    )
    with as_process(parse("--num_processes", "1")):
        pass


def test_an_address_without_a_cluster_is_told(monkeypatch, capsys):
    monkeypatch.setattr(launch_detection, "backends_are_initialized", lambda: False)
    monkeypatch.setattr(ClusterEnv, "_cluster_types", [])
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "a:1")
    with pytest.raises(SystemExit) as ended, as_process(parse()):
        pass
    assert ended.value.code == EXIT_USER_ERROR
    assert "JAX_COORDINATOR_ADDRESS is set, but there is no cluster that says" in capsys.readouterr().err
