"""Readers: from files, data sets of the hub and generators to examples."""
