"""The heartbeat tells the end of a wait from the loss of process 0."""

import subprocess

from tests.conftest import free_port


def test_a_run_longer_than_one_wait_goes_on(python):
    """The error that ends a wait, as jax's client raises it, is no loss of process 0; any other is."""
    program = """
import jax, jax._src.distributed as d
from jaxft.parallel import processes, heartbeat
jax.distributed.initialize("localhost:{port}", 1, 0)
lost, waits = [], []
client = d.global_state.client
class Client:
    def blocking_key_value_get(self, key, patience):
        waits.append(patience)
        if len(waits) == 2:
            raise RuntimeError("UNAVAILABLE: the socket is closed")
        return client.blocking_key_value_get("never set", 50)
heartbeat.global_state = type("State", (), {{"client": Client()}})
beat = object.__new__(heartbeat.Heartbeat)
beat._hosts, beat._stop_for_lost = ["here"], lost.append
beat._wait_on_main()
print(len(waits), lost)
"""
    done = subprocess.run(
        [*python, "-c", program.format(port=free_port())], capture_output=True, text=True, timeout=120
    )
    assert done.stdout.splitlines()[-1] == "2 ['process 0 (here) has ended']", done.stdout + done.stderr
