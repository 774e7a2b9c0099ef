"""Holds the model families, a folder each, and opens the models that runs start from; knows no task."""
