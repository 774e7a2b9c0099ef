"""Answers records with trained adapters: of runs or in PEFT's files, one or several on one base model."""
