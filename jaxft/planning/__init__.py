"""Estimates the hardware that a train step needs: memory, time and communication."""
