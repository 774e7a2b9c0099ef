"""The parts of jax that have no public name; no other module imports `jax._src`.

`global_state` has the client of the coordination service, `ClusterEnv` recognises clusters, and
`backends_are_initialized` tells whether devices are in use already. All three are of jax 0.7 to 0.12.
"""

from jax._src.clusters import ClusterEnv
from jax._src.distributed import global_state
from jax._src.xla_bridge import backends_are_initialized

__all__ = ["ClusterEnv", "backends_are_initialized", "global_state"]
