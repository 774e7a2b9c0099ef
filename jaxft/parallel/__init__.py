"""Runs on several processes and devices: joins and watches processes, makes the mesh, multiplies matrices over it."""
