"""Encoders: from examples to windows of tokens."""
