"""Trains models: prepares a run, trains, evaluates, saves checkpoints, and keeps the folder of the run."""
