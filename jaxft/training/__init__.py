"""Trains models: preparation, loop, evaluation, checkpoints, the folder of a run."""
