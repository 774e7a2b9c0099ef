"""Synthetic corpora that the project generates, for runs without downloads."""
