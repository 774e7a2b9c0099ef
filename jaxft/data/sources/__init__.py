"""Reads examples from files, datasets of the Hugging Face hub and generated corpora."""
