"""Holds the model families, one folder each, and opens the models that runs start from. Knows no task."""
