"""Holds the layers that networks are built from, with hand-written gradients."""
