"""Reads examples from files, from datasets of the Hugging Face hub and from generated corpora."""
