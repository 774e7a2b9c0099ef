"""Exports a run as a Hugging Face folder, with a model card, and compares it with the run in PyTorch."""
