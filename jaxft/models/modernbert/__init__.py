"""Holds ModernBERT (Warner et al., 2024): its network, config.json and weights."""
