"""Reads records with any keys from JSON lines, tables, Parquet and datasets of the Hugging Face hub."""
