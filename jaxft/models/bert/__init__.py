"""Holds BERT (Devlin et al., 2019): its network, config.json and weights."""
