"""Losses that return (loss_sum, weight_sum)."""
