"""Models of a task: a backbone and the head that turns its hidden states into the task's outputs."""
