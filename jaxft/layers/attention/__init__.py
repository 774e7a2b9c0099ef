"""Multi-head attention within segments."""
