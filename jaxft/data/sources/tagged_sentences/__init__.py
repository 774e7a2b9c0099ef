"""Reads sentences with tags: CoNLL columns, tokens and tags, text and character spans."""
