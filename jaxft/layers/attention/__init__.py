"""Attention: one interface, and implementations next to it.

interface.py    what networks ask: visibility, relative terms, dropout
choice.py       chooses implementations for a run, by limits.py, which declares what each of them can compute
over_mesh.py    runs the chosen ones on the devices of a mesh
dense.py        by matrix products over all pairs, on every device; also in blocks of a row
chunked.py      by chunks of queries and keys, on every device, for long rows and windows
prefix.py       adds keys and values that all queries see, next to dense.py and chunked.py
flash.py        a kernel for NVIDIA GPUs
splash.py       jax's kernel for TPUs
scores.py       scores, masks and distances, which dense.py, chunked.py and flash.py share
flops.py        sizes of chunks, and how many products each implementation computes
rotary.py       turns queries and keys by their positions, before attention
"""
