"""Holds adapters: few parameters that are trained next to those of a frozen backbone. A file a method."""
