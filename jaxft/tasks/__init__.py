"""Tasks: what is encoded, predicted, lost and measured."""
