"""Holds MPNet (Song et al., 2020): its network, config.json and weights."""
