"""Turns examples into windows of tokens."""
