"""Holds DistilBERT (Sanh et al., 2019): a BERT of half the layers, trained to give a BERT's answers."""
