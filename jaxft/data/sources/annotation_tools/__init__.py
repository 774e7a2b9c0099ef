"""Turns the records that annotation tools write into records with our keys: a module for each tool."""
