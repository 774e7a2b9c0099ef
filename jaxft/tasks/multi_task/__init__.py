"""Several tasks with a shared backbone."""
