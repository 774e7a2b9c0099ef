"""Holds ERNIE (Sun et al., 2019): a BERT that was trained on entities and phrases. Its first checkpoints use ReLU."""
