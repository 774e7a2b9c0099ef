"""Holds GPT-2 (Radford et al., 2019): its network, decoder, config.json and weights."""
