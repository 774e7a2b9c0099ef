"""Trains a model: set-up, loop, evaluation, checkpoints."""
