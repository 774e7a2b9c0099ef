"""Keeps a run on disk: its folder, its identity, its checkpoints and its best weights."""
