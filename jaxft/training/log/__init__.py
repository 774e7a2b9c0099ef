"""Measures and reports the progress of a run."""
