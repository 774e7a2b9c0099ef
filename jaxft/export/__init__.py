"""Exports a run as a Hugging Face folder."""
