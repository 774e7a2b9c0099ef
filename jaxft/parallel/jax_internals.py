"""Imports the objects that have no public name in jax. No other module imports `jax._src`.

`global_state` holds the client of jax's coordination service. `ClusterEnv` detects clusters.
`backends_are_initialized` says whether jax already uses its devices. jax 0.7 to 0.12 have all three.
"""

from typing import Any

from jax._src import distributed
from jax._src.clusters import ClusterEnv
from jax._src.xla_bridge import backends_are_initialized

global_state: Any = distributed.global_state  # its fields are None until jax knows of the other processes

__all__ = ["ClusterEnv", "backends_are_initialized", "global_state"]
