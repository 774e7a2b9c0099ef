"""Sequence classification: labels or numbers for texts and pairs of texts."""
