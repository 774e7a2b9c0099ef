"""Holds ViT (Dosovitskiy et al., 2021) and DeiT (Touvron et al., 2021): their network, config.json and weights."""
