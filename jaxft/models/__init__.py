"""Network code in flax.nnx: no config objects, no tasks, no data."""
