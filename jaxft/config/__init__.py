"""Declares, loads, validates and documents settings."""
