"""Holds what networks of images are built of: convolutions, batch normalization, pooling, patches."""
