"""Layers that networks are built of, with hand-written gradients."""
