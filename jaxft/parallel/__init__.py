"""Processes, their rendezvous and heartbeat, the device mesh, and matrix products over it."""
