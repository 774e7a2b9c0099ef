"""Reads and writes adapters in the files of the library PEFT."""
