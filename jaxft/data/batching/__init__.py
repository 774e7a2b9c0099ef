"""Loaders: from windows to batches."""
