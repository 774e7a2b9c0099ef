"""Estimates what a training step needs of hardware."""
