"""Scores tags as conlleval does, written out for the tests: one pass over the words, as in the original.

Source: Erik Tjong Kim Sang's conlleval of the CoNLL-2000 shared task, version 2004-01-26
(https://www.clips.uantwerpen.be/conll2000/chunking/conlleval.txt). Only the tags B, I and O are covered.
"""

from collections import Counter


def split_tag(tag: str) -> tuple[str, str]:
    """Returns prefix and type; the prefix ends at the first hyphen, so that types may have hyphens."""
    prefix, _, kind = tag.partition("-")
    return prefix, kind


def ends(before: tuple[str, str], now: tuple[str, str]) -> bool:
    """Returns True if a chunk ended between two neighbouring words."""
    (before_prefix, before_kind), (prefix, kind) = before, now
    if (before_prefix, prefix) in {("B", "B"), ("B", "O"), ("I", "B"), ("I", "O")}:
        return True
    return before_prefix != "O" and before_kind != kind


def starts(before: tuple[str, str], now: tuple[str, str]) -> bool:
    """Returns True if a chunk started at the second of two neighbouring words."""
    (before_prefix, before_kind), (prefix, kind) = before, now
    if (before_prefix, prefix) in {("B", "B"), ("I", "B"), ("O", "B"), ("O", "I")}:
        return True
    return prefix != "O" and before_kind != kind


def conlleval(gold: list[list[str]], guessed: list[list[str]]) -> tuple[Counter, Counter, Counter, float]:
    """Counts correct, guessed and gold chunks by type, and returns the tagging accuracy with them."""
    correct, guessed_chunks, gold_chunks = Counter(), Counter(), Counter()
    words = right = 0
    in_correct = False
    last_gold = last_guess = ("O", "")
    border = [("O", "O", True)]  # the empty line after a sentence counts as a word outside all chunks
    for sentence in zip(gold, guessed, strict=True):
        for gold_tag, guess_tag, is_border in [
            (g, p, False) for g, p in zip(*sentence, strict=True)
        ] + border:
            now_gold, now_guess = split_tag(gold_tag), split_tag(guess_tag)
            gold_ends, guess_ends = ends(last_gold, now_gold), ends(last_guess, now_guess)
            if in_correct:
                if gold_ends and guess_ends and last_guess[1] == last_gold[1]:
                    in_correct = False
                    correct[last_gold[1]] += 1
                elif gold_ends != guess_ends or now_guess[1] != now_gold[1]:
                    in_correct = False
            gold_starts, guess_starts = starts(last_gold, now_gold), starts(last_guess, now_guess)
            if gold_starts and guess_starts and now_guess[1] == now_gold[1]:
                in_correct = True
            gold_chunks[now_gold[1]] += gold_starts
            guessed_chunks[now_guess[1]] += guess_starts
            if not is_border:
                words += 1
                right += now_gold == now_guess
            last_gold, last_guess = now_gold, now_guess
    if in_correct:
        correct[last_gold[1]] += 1
    return +correct, +guessed_chunks, +gold_chunks, right / words if words else 0.0
