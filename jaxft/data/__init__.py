"""Sources, tokenization, packing and batches, in numpy."""
