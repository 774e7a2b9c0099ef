"""Loaders, which turn windows into batches."""
