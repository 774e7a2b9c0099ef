"""Computes metrics in numpy, from states that can be merged."""
