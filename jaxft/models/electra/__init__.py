"""Holds ELECTRA (Clark et al., 2020): a BERT that was trained to tell replaced tokens from real ones."""
