"""Makes the optimizer of a run: schedule, update rule, and rules by parameter path for decay, rates and freezing."""
