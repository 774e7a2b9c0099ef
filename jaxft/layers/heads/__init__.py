"""Holds the models of tasks: a backbone, and the head that turns its hidden states into a task's outputs."""
