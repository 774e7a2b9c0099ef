"""Reads and writes Hugging Face model folders; names no model family."""
