"""Holds DeBERTa-v2 and -v3 (He et al., 2021 and 2023) and mDeBERTa: their network, config.json and weights."""
