"""Exports a run as a Hugging Face folder with a model card, and compares the export with the run in PyTorch."""
