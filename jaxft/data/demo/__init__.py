"""Generates synthetic corpora, for runs without downloads."""
