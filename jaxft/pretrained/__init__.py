"""Checkpoints in and out: addresses, tensors and the weight tables."""
