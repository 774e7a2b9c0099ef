"""Defines the command line: a module for each verb, and modules that verbs share."""
