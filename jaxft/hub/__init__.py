"""Reads and writes Hugging Face model folders. Knows no model family."""
