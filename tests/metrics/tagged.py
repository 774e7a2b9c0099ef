"""Draws random pairs of gold and predicted IOB2 tags for the metric tests, both valid and invalid sequences."""

from hypothesis import strategies as st

# A type with a hyphen (as WNUT-17 has), one that looks like a prefix, and one like a hyphenated prefix.
TAGS = ["O", *(f"{prefix}-{kind}" for prefix in "BI" for kind in ("PER", "creative-work", "B"))]


@st.composite
def pairs(draw, max_sentences: int = 6) -> tuple[list[list[str]], list[list[str]]]:
    """Draws gold and predicted tags of sentences; predictions often equal gold, so that all outcomes occur."""
    gold, predicted = [], []
    for _ in range(draw(st.integers(0, max_sentences))):
        tags = draw(st.lists(st.sampled_from(TAGS), max_size=8))
        changes = draw(st.lists(st.none() | st.sampled_from(TAGS), min_size=len(tags), max_size=len(tags)))
        gold.append(tags)
        predicted.append([new or old for old, new in zip(tags, changes, strict=True)])
    return gold, predicted
