"""Holds what transformer networks are built of: encoder layers, the MLP, stacks of layers."""
