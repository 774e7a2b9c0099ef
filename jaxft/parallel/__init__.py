"""Runs on several processes and devices: joining processes, their heartbeat, the mesh and matrix products over it."""
