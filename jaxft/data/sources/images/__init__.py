"""Reads images with labels, decodes them in worker processes, and makes a model's inputs of them."""
