"""Holds the losses, which return (loss_sum, weight_sum)."""
