"""Ratings: predicts how many stars a text gives."""
