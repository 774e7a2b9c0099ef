"""Reads and writes files: whole or not at all, and in object stores."""
