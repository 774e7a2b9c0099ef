"""Losses that return (sum, weight)."""
