"""Reads examples from sources, encodes them as windows of tokens, and batches these, in numpy."""
