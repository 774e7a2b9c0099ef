"""Runs trained models."""
