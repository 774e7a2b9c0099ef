"""Holds ResNet (He et al., 2016): its network, config.json and weights."""
