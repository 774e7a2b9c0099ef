"""Reads examples from sources, encodes them as windows of tokens and makes batches of the windows, in numpy."""
