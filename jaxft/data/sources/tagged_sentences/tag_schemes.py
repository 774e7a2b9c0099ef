"""Detects tagging schemes (IO, IOB1, IOB2, BIOES, BILOU or none) and converts tags to IOB2."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from jaxft.data.sources.tagged_sentences import tag_syntax
from jaxft.data.sources.tagged_sentences.sentence import Sentence
from jaxft.errors import UserError

# Scheme -> its prefixes. In "io" a tag is the type without a prefix.
SCHEMES = {"io": "", "iob1": "IB", "iob2": "BI", "bioes": "BIOES", "bilou": "BILOU"}
NO_SCHEME = "none"  # for labels that form no entities, such as parts of speech; they are not converted
_PREFIXES = frozenset("BIESLU")
# Scheme -> the prefix of an entity's last word, and that of an entity of one word.
_LAST_PREFIXES = {"bioes": ("E", "S"), "bilou": ("L", "U")}
# Taken for granted where no tag has a prefix.
_PLAIN_NOTES = {
    "io": "each label but O is a type of entities; set config.data.scheme=none if they form no entities",
    NO_SCHEME: "kept as they are, as parts of speech; set config.data.scheme if they are tags of entities",
}


def _split_tag(tag: str) -> tuple[str, str]:
    """Splits a tag into prefix and type: ("B", "PER"), ("O", ""), or ("", tag) for a tag without a prefix."""
    if tag == "O":
        return "O", ""
    if len(tag) > 2 and tag[1] == "-" and tag[0] in _PREFIXES:
        return tag[0], tag[2:]
    return "", tag


def detect_scheme(sequences: Iterable[Sequence[str]]) -> str:
    """Returns the scheme of tag sequences: a key of `SCHEMES`, or `NO_SCHEME`.

    E- or S- mean BIOES. L- or U- mean BILOU. Tags without a prefix mean IO if there is an O, else `NO_SCHEME`. With
    only B- and I-, the scheme is IOB1 or IOB2, whichever fewer tags break. In IOB2 every entity begins with B-. In IOB1
    only an entity that follows another of its type does. Sequences of only O count as IOB2.
    """
    counts = dict.fromkeys("BIESLU", 0)
    bare_count = outside_count = breaks_of_iob1 = breaks_of_iob2 = 0
    for tags in sequences:
        previous_type = ""
        for tag in tags:
            prefix, entity_type = _split_tag(tag)
            if prefix in counts:
                counts[prefix] += 1
                breaks_of_iob1 += prefix == "B" and previous_type != entity_type
                breaks_of_iob2 += prefix == "I" and previous_type != entity_type
            elif not prefix:
                bare_count += 1
            else:
                outside_count += 1
            previous_type = entity_type
    if counts["E"] + counts["S"] + counts["L"] + counts["U"]:
        return "bioes" if counts["E"] + counts["S"] >= counts["L"] + counts["U"] else "bilou"
    if counts["B"] + counts["I"]:
        return "iob2" if breaks_of_iob2 <= breaks_of_iob1 else "iob1"
    if not bare_count:
        return "iob2"
    return "io" if outside_count else NO_SCHEME


def convert_tags_to_iob2(
    tags: Sequence[str],
    scheme: str,
    describe_word: Callable[[int], str] = lambda index: f"word {index + 1}",
    rewritten: Mapping[str, str] | None = None,
) -> tuple[list[str], list[int]]:
    """Converts one sentence's tags to valid IOB2.

    Tags that break their scheme are read as in conlleval: a tag begins an entity if it follows O or a tag of another
    type.

    Args:
      tags: the tags of a sentence.
      scheme: a key of `SCHEMES`.
      describe_word: returns the place of a word, by its index, for messages.
      rewritten: tag -> the tag as `B-TYPE`, for tags that are spelled differently; see `tag_syntax`.

    Returns:
      (IOB2 tags, indices of the tags that break the scheme).

    Raises:
      UserError: a tag does not exist in the scheme.
    """
    if scheme not in SCHEMES:
        raise UserError(f"tagging scheme {scheme!r} is unknown; expected one of {', '.join(SCHEMES)}")
    end_prefix, single_prefix = _LAST_PREFIXES.get(scheme, (" ", " "))  # no tag has the prefix " "
    converted, invalid = [], []
    open_type = ""  # the type of the entity that the next tag may continue
    is_unclosed = False  # True if the next tag must continue it, in BIOES and BILOU
    for index, tag in enumerate(tags):
        prefix, entity_type = _split_tag(rewritten.get(tag, tag) if rewritten else tag)
        if prefix != "O":
            _check_tag(tag, prefix, scheme, describe_word, index)
        continues = prefix in ("I", end_prefix, "") and entity_type == open_type and entity_type != ""
        if is_unclosed and not continues:
            invalid.append(index - 1)
        if prefix == "O":
            converted.append("O")
        elif continues:
            converted.append("I-" + entity_type)
        else:
            converted.append("B-" + entity_type)
            is_orphan = prefix in ("I", end_prefix) and scheme != "iob1"
            # In IOB1 only an entity that follows another of its type begins with B-.
            if is_orphan or (scheme == "iob1" and prefix == "B" and entity_type != open_type):
                invalid.append(index)
        is_unclosed = end_prefix != " " and prefix in ("B", "I")
        open_type = "" if prefix in ("O", end_prefix, single_prefix) else entity_type
    if is_unclosed:
        invalid.append(len(tags) - 1)
    return converted, sorted(set(invalid))


def _check_tag(tag: str, prefix: str, scheme: str, describe_word: Callable[[int], str], index: int) -> None:
    """Raises `UserError` if the tag does not exist in the scheme."""
    allowed = SCHEMES[scheme].replace("O", "")
    if prefix in allowed and (prefix or (scheme == "io" and tag)):
        return
    expected = (
        ", ".join(["O", *(f"{letter}-TYPE" for letter in sorted(allowed))]) if allowed else "O or a type"
    )
    raise UserError(
        f"{describe_word(index)}: the tag {tag!r} is not one of the scheme {scheme.upper()} that the data is in "
        f"({expected}); mend the tag, or name the tag column if this is not it"
    )


@dataclass(frozen=True, slots=True)
class Conversion:
    """A report of the conversion of a source."""

    scheme: str
    sentences: int  # count
    words: int  # count
    invalid: int  # count of tags that broke the scheme
    places: list[str]  # descriptions of the first three such tags
    note: str = ""  # how the source spells its tags, or what was taken for granted

    def __str__(self) -> str:
        """Returns the report as a line for the terminal."""
        line = f"{self.sentences} sentences, {self.words} words, "
        line += "labels of no scheme" if self.scheme == NO_SCHEME else f"tags in {self.scheme.upper()}"
        line += f" ({self.note})" if self.note else ""
        if self.invalid:
            more = ", ..." if self.invalid > len(self.places) else ""
            line += f", {self.invalid} invalid places, repaired: {'; '.join(self.places)}{more}"
        return line


def convert_sentences_to_iob2(
    sentences: Iterable[Sentence],
    scheme: str | None = None,
    entity_type: str = tag_syntax.DEFAULT_ENTITY_TYPE,
) -> tuple[list[Sentence], Conversion]:
    """Converts the tags of sentences to IOB2, however the source spells them. Labels of `NO_SCHEME` are not changed.

    Args:
      sentences: sentences with tags.
      scheme: a key of `SCHEMES` or `NO_SCHEME`; None detects it.
      entity_type: the type of entities whose tags name none, such as B and I.

    Returns:
      (sentences with their new tags, report).

    Raises:
      UserError: a tag does not exist in the scheme, or the scheme cannot be detected for certain.
    """
    sentences = list(sentences)
    scheme, syntax, note = _recognize(sentences, scheme, entity_type)
    converted: list[Sentence] = []
    places: list[str] = []
    word_count = invalid_count = 0
    for sentence in sentences:
        if scheme == NO_SCHEME:
            _check_labels(sentence)
            tags, invalid = list(sentence.gold_tags), list[int]()
        else:
            tags, invalid = convert_tags_to_iob2(
                sentence.gold_tags, scheme, sentence.describe_word, syntax.rewritten
            )
        converted.append(replace(sentence, tags=tags))
        word_count += len(tags)
        invalid_count += len(invalid)
        for index in invalid[: 3 - len(places)]:
            word = sentence.words[index]
            places.append(
                f"{sentence.gold_tags[index]!r} at word {index + 1} ({word!r}) of {sentence.origin}"
            )
    return converted, Conversion(scheme, len(sentences), word_count, invalid_count, places, note)


def _recognize(
    sentences: Sequence[Sentence], scheme: str | None, entity_type: str
) -> tuple[str, tag_syntax.TagSyntax, str]:
    """Returns the scheme, the spelling of tags, and a note on both for the log."""
    if scheme == NO_SCHEME:
        return scheme, tag_syntax.TagSyntax(), ""
    counts = Counter(tag for sentence in sentences for tag in sentence.gold_tags)
    if scheme == "io":  # tags are types, whatever they look like
        return scheme, tag_syntax.TagSyntax({"o": "O"} if "O" not in counts else {}), ""
    syntax = tag_syntax.recognize_syntax(counts, entity_type, has_letters=scheme is not None)
    if scheme is not None:
        return scheme, syntax, syntax.description
    rewritten = syntax.rewritten
    scheme = detect_scheme([rewritten.get(tag, tag) for tag in sentence.gold_tags] for sentence in sentences)
    notes = [syntax.description] if syntax.description else []
    if scheme in ("io", NO_SCHEME):
        usual_counts: Counter[str] = Counter()
        for tag, count in counts.items():
            usual_counts[rewritten.get(tag, tag)] += count
        source = sentences[0].origin.rpartition(":")[0]
        tag_syntax.check_plain_labels(usual_counts, scheme, source)
        notes.append(_PLAIN_NOTES[scheme])
    return scheme, syntax, ", ".join(notes)


def _check_labels(sentence: Sentence) -> None:
    """Raises `UserError` for an empty label."""
    if "" in (tags := sentence.gold_tags):
        raise UserError(
            f"{sentence.describe_word(tags.index(''))}: the label is empty; write one, "
            "or name the tag column if this is not it"
        )


def is_iob2(tags: Iterable[str]) -> bool:
    """Returns True if all tags are O, B-TYPE or I-TYPE."""
    return all(tag == "O" or _split_tag(tag)[0] in ("B", "I") for tag in tags)


def find_allowed_transitions(labels: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Finds the IOB2 labels that may begin a sentence, and the allowed transitions between labels.

    Everything is allowed, except that I-X may only follow B-X or I-X.

    Args:
      labels: C labels.

    Returns:
      (starts, transitions): bool `[C]`, True if a label may begin a sentence; bool `[C, C]`, [from, to], True if a
      transition is allowed.
    """
    pairs = [_split_tag(label) for label in labels]
    may_begin = np.array([prefix != "I" for prefix, _ in pairs])
    same_type = np.array([[next_type == entity_type for _, next_type in pairs] for _, entity_type in pairs])
    return may_begin, may_begin | same_type


def extract_entities(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """Extracts the entities of IOB2 tags; see `iterate_entities`."""
    return list(iterate_entities(tags))


def iterate_entities(tags: Iterable[str]) -> Iterator[tuple[str, int, int]]:
    """Yields the entities of IOB2 tags as `(type, first, last + 1)`. An I- that continues no entity begins one."""
    open_type, first = "", None  # of the entity that the next tag may continue
    index = -1
    for index, tag in enumerate(tags):
        prefix, entity_type = _split_tag(tag)
        if first is not None:
            if prefix == "I" and entity_type == open_type:
                continue
            yield open_type, first, index
        open_type, first = entity_type, None if prefix == "O" else index
    if first is not None:
        yield open_type, first, index + 1
