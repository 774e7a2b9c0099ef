"""Lists the kinds of heads: a task asks a model family for a kind, and never for a family."""

import enum


class HeadKind(enum.Enum):
    """The kinds of heads, by the thing that they give values to."""

    TOKEN = "token"  # each token
    SEQUENCE = "sequence"  # each text
    QUESTION = "question"  # each token, to be the first or last of an answer
    NEXT_TOKEN = "next_token"  # each token of the vocabulary, to be the next
    MASKED = "masked"  # each token of the vocabulary, to be behind a mask
    IMAGE = "image"  # each image
    SHARED = "shared"  # what the heads of several tasks on one backbone do
