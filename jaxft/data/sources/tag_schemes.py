"""Reads the tagging schemes IO, IOB1, IOB2, BIOES and BILOU and converts them to IOB2; tells labels of no scheme."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from jaxft.data.sources.sentence import Sentence
from jaxft.errors import UserError

# Prefixes of each scheme. In "io" a tag is the bare type.
SCHEMES = {"io": "", "iob1": "IB", "iob2": "BI", "bioes": "BIOES", "bilou": "BILOU"}
NO_SCHEME = "none"  # labels that form no entities, such as parts of speech: they stay as they are
_PREFIXES = frozenset("BIESLU")


def _parse(tag: str) -> tuple[str, str]:
    """Prefix and type: ("B", "PER"), ("O", ""), or ("", tag) for a tag without a prefix."""
    if tag == "O":
        return "O", ""
    if len(tag) > 2 and tag[1] == "-" and tag[0] in _PREFIXES:
        return tag[0], tag[2:]
    return "", tag


def detect_scheme(sequences: Iterable[Sequence[str]]) -> str:
    """Returns the scheme of tag sequences, a key of `SCHEMES` or `NONE`.

    E- or S- tell BIOES, L- or U- tell BILOU; tags without prefix tell IO if there is an O, and `NONE` if not.
    With B- and I- alone it is the scheme of IOB1 and IOB2 that fewer tags break: in IOB2 each entity begins with
    B-, in IOB1 only one that follows another of its type. Sequences with nothing but O are called IOB2.
    """
    counts = dict.fromkeys("BIESLU", 0)
    bare = outside = breaks_iob1 = breaks_iob2 = 0
    for tags in sequences:
        previous = ""
        for tag in tags:
            prefix, kind = _parse(tag)
            if prefix in counts:
                counts[prefix] += 1
                breaks_iob1 += prefix == "B" and previous != kind
                breaks_iob2 += prefix == "I" and previous != kind
            elif not prefix:
                bare += 1
            else:
                outside += 1
            previous = kind
    if counts["E"] + counts["S"] + counts["L"] + counts["U"]:
        return "bioes" if counts["E"] + counts["S"] >= counts["L"] + counts["U"] else "bilou"
    if counts["B"] + counts["I"]:
        return "iob2" if breaks_iob2 <= breaks_iob1 else "iob1"
    if not bare:
        return "iob2"
    return "io" if outside else NO_SCHEME


def convert_tags_to_iob2(tags: Sequence[str], scheme: str, origin: str = "") -> tuple[list[str], list[int]]:
    """Converts one sentence's tags to valid IOB2.

    Where the tags break their scheme they are read as conlleval does: a tag of another type than the one
    before, or after O, begins an entity.

    Returns the tags, one for one, and the indices of the places that break the scheme. Raises `UserError`,
    which names the sentence by `origin`, for a tag that is not of the scheme at all.
    """
    if scheme not in SCHEMES:
        raise UserError(f"tagging scheme {scheme!r} is unknown; expected one of {', '.join(SCHEMES)}")
    end, single = {"bioes": "ES", "bilou": "LU"}.get(scheme, "  ")
    converted, invalid = [], []
    open_type = ""  # type of the entity that the next tag may continue
    unclosed = False  # in BIOES and BILOU: whether it must
    for index, tag in enumerate(tags):
        prefix, kind = _parse(tag)
        if prefix != "O":
            _check(tag, prefix, scheme, index, origin)
        continues = prefix in ("I", end, "") and kind == open_type and kind != ""
        if unclosed and not continues:
            invalid.append(index - 1)
        if prefix == "O":
            converted.append("O")
        elif continues:
            converted.append("I-" + kind)
        else:
            converted.append("B-" + kind)
            orphan = prefix in ("I", end) and scheme != "iob1"
            # In IOB1 a B- is only for an entity that follows another of its type.
            if orphan or (scheme == "iob1" and prefix == "B" and kind != open_type):
                invalid.append(index)
        unclosed = end != " " and prefix in ("B", "I")
        open_type = "" if prefix in ("O", end, single) else kind
    if unclosed:
        invalid.append(len(tags) - 1)
    return converted, sorted(set(invalid))


def _check(tag: str, prefix: str, scheme: str, index: int, origin: str) -> None:
    allowed = SCHEMES[scheme].replace("O", "")
    if prefix in allowed and (prefix or (scheme == "io" and tag)):
        return
    place = f"word {index + 1} of the sentence at {origin}" if origin else f"word {index + 1}"
    expected = (
        ", ".join(["O", *(f"{letter}-TYPE" for letter in sorted(allowed))]) if allowed else "O or a type"
    )
    raise UserError(
        f"{place}: the tag {tag!r} is not one of the scheme {scheme.upper()} that the data is in "
        f"({expected}); mend the tag, or name the tag column if this is not it"
    )


@dataclass(frozen=True, slots=True)
class Conversion:
    """What converting a source found."""

    scheme: str
    sentences: int
    words: int
    invalid: int  # places that broke the scheme
    places: list[str]  # the first three of them

    def __str__(self) -> str:
        """One line for the terminal."""
        line = f"{self.sentences} sentences, {self.words} words, "
        line += "labels of no scheme" if self.scheme == NO_SCHEME else f"tags in {self.scheme.upper()}"
        if self.invalid:
            more = ", ..." if self.invalid > len(self.places) else ""
            line += f", {self.invalid} invalid places, repaired: {'; '.join(self.places)}{more}"
        return line


def convert_sentences_to_iob2(
    sentences: Iterable[Sentence], scheme: str | None = None
) -> tuple[list[Sentence], Conversion]:
    """Sentences with their tags in IOB2 (or as they are, if they are of `NONE`), and the report.

    Without `scheme` it is detected. Raises `UserError` for a tag that is not of the scheme.
    """
    sentences = list(sentences)
    if scheme is None:
        scheme = detect_scheme(sentence.tags for sentence in sentences)
    converted, words, count, places = [], 0, 0, []
    for sentence in sentences:
        tags, invalid = (
            _as_they_are(sentence)
            if scheme == NO_SCHEME
            else convert_tags_to_iob2(sentence.tags, scheme, sentence.origin)
        )
        converted.append(replace(sentence, tags=tags))
        words += len(tags)
        count += len(invalid)
        for index in invalid[: 3 - len(places)]:
            word = sentence.words[index]
            places.append(f"{sentence.tags[index]!r} at word {index + 1} ({word!r}) of {sentence.origin}")
    return converted, Conversion(scheme, len(sentences), words, count, places)


def _as_they_are(sentence: Sentence) -> tuple[list[str], list[int]]:
    if "" in sentence.tags:
        raise UserError(
            f"word {sentence.tags.index('') + 1} of the sentence at {sentence.origin}: the label is empty; write one, "
            "or name the tag column if this is not it"
        )
    return list(sentence.tags), []


def is_iob2(tags: Iterable[str]) -> bool:
    """Whether all tags are O, B-TYPE or I-TYPE."""
    return all(tag == "O" or _parse(tag)[0] in ("B", "I") for tag in tags)


def find_allowed_transitions(labels: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Which IOB2 labels may begin a sentence, bool [C], and which may follow which, bool [C, C] (from, to).

    All may, but for I-X, which only follows B-X and I-X.
    """
    parsed = [_parse(label) for label in labels]
    start = np.array([prefix != "I" for prefix, _ in parsed])
    follows = np.array([[kind == before for _, kind in parsed] for _, before in parsed])
    return start, start | follows


def extract_entities(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """Entities of IOB2 tags as `(type, first, last + 1)`; an I- without its entity begins one."""
    found = []
    for index, tag in enumerate(tags):
        prefix, kind = _parse(tag)
        if prefix == "I" and found and found[-1][0] == kind and found[-1][2] == index:
            found[-1] = (kind, found[-1][1], index + 1)
        elif prefix != "O":
            found.append((kind, index, index + 1))
    return found
