"""Mergeable metric states, in numpy."""
