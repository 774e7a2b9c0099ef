"""Holds what networks of pictures are built of: convolutions, batch normalization, pooling, patches."""
