"""Recognises how a source spells its tags (`B_LOC`, `LOC-B`, `b-loc`, a bare `B`), and labels that may be tags."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from jaxft.errors import UserError

# A tag's letter -> the letter of our schemes. BMES writes M for the inside; BMEWO also writes W for a single word.
LETTERS = {letter: letter for letter in "BIESLU"} | {"M": "I", "W": "S"}
DEFAULT_ENTITY_TYPE = "ENT"

_BARE = re.compile(r"[\W_]?([A-Za-z])[\W_]?")
_LETTER_FIRST = re.compile(r"(?P<letter>[A-Za-z])(?P<divider>[\W_])(?P<type>.+)")
_LETTER_LAST = re.compile(r"(?P<type>.+)(?P<divider>[\W_])(?P<letter>[A-Za-z])")
_USUAL_FORM = (True, "-")  # B-LOC
# An affix of letters and digits, and the rest of a label.
_AFFIX_FIRST = re.compile(r"(?P<affix>[^\W_]*)[\W_]?(?P<kind>.*)", re.DOTALL)
_AFFIX_LAST = re.compile(r"(?P<kind>.*?)[\W_]?(?P<affix>[^\W_]*)", re.DOTALL)
_OUTSIDE_NAMES = frozenset(
    "0 _ - -- * none null nil other others outside out n/a no-entity no_entity".split()
)
_PLACES = frozenset(
    "begin beg start first inside in inner mid middle next rest cont end last single unit 1 2".split()
)
# A label that more than this share of the words has is no part of speech: NOUN and PUNCT stay below a third of a text.
_DOMINANT_SHARE = 2 / 3
_FEW_WORDS = 100  # shares of fewer words mean nothing
_FEW_EQUAL_WORDS = 20  # so do fewer words with the same label


@dataclass(frozen=True, slots=True)
class TagSyntax:
    """The spelling of a source's tags."""

    # Each tag that is not yet O, B-TYPE, I-TYPE and so on -> the tag in this form.
    rewritten: Mapping[str, str] = field(default_factory=dict)
    description: str = ""  # what differs from B-TYPE, for the log; empty if nothing does


def recognize_syntax(
    counts: Mapping[str, int], entity_type: str = DEFAULT_ENTITY_TYPE, *, has_letters: bool = False
) -> TagSyntax:
    """Recognises letters with any divider, before or after the type, in either case, and letters without a type.

    A spelling other than `B-LOC` counts if it fits at least half of the words in entities and if B or I is among its
    letters. A lower-case `o` then means the outside. Labels that have no letters of a scheme are not changed.

    Args:
      counts: tag -> its number of words.
      entity_type: the type of entities whose tags are letters only.
      has_letters: True if the tags are known to have letters of a scheme, so that any tag decides the spelling.

    Returns:
      The spelling. It leaves out tags that do not fit it, which the scheme refuses.
    """
    inside = {tag: count for tag, count in counts.items() if tag not in ("O", "o")}
    outside = {"o": "O"} if "o" in counts else {}

    bare = {tag: match[1].upper() for tag in inside if (match := _BARE.fullmatch(tag))}
    bare = {tag: f"{LETTERS[letter]}-{entity_type}" for tag, letter in bare.items() if letter in LETTERS}
    if _fits(bare, inside, least=0.5 if has_letters else 0.9, needs_begin=not has_letters):
        letters = ", ".join(sorted(bare))
        return TagSyntax(
            bare | outside, f"{letters} without a type, read as {entity_type} (config.data.entity_type)"
        )

    forms: Counter[tuple[bool, str]] = Counter()
    for tag, count in inside.items():
        forms.update({form: count for form, _, _ in _parses(tag)})
    # Ties go to the usual form, then to the letter first, then by divider: always the same choice.
    form = max(forms, key=lambda form: (forms[form], form == _USUAL_FORM, form), default=_USUAL_FORM)
    usual = {
        tag: f"{letter}-{kind}" for tag in inside for parse, letter, kind in _parses(tag) if parse == form
    }
    if _fits(usual, inside, least=0.0 if has_letters else 0.5, needs_begin=not has_letters):
        changed = {tag: new for tag, new in usual.items() if tag != new} | outside
        example = min((tag for tag in changed if tag != "o"), default="o")
        return TagSyntax(changed, f"written as {example!r}" if changed else "")
    # A few tags as B-TYPE among others decide on no spelling, but the scheme will name the others in an error.
    has_usual_tag = any(len(tag) > 2 and tag[1] == "-" and tag[0] in "BIESLU" for tag in inside)
    if outside and not has_usual_tag and ("O" in counts or counts["o"] == max(counts.values())):
        return TagSyntax(outside, "'o' read as O")
    return TagSyntax()


def check_plain_labels(counts: Mapping[str, int], scheme: str, source: str) -> None:
    """Raises `UserError` for labels without letters of a scheme that may well be tags of entities.

    Such labels come in pairs (begin_LOC and inside_LOC), or one of them has most words, as O does among entities.

    Args:
      counts: label -> its number of words.
      scheme: "io" if each label but O would be a type of entities, "none" if labels would form no entities.
      source: the name of the source, for the message.
    """
    words = sum(counts.values())
    if not words:
        return
    common = max(counts, key=lambda label: (counts[label], label))
    reading = "entity types" if scheme == "io" else "labels that form no entities"
    remedy = (
        "; write tags as B-TYPE, I-TYPE and O, or set config.data.scheme=none for labels that form no entities, such "
        "as parts of speech"
    )
    if scheme == "io":
        remedy += ", or =io if each label but O is a type of entities"
    if pairs := _find_pairs([label for label in counts if label != (common if scheme != "io" else "O")]):
        raise UserError(
            f"{source}: the labels come in pairs, as B-LOC and I-LOC do, but in a spelling that is not known "
            f"({', '.join(map(repr, pairs[:4]))}), and would be read as {reading}{remedy}"
        )
    has_outside_name = common.casefold() in _OUTSIDE_NAMES and len(counts) > 1
    is_dominant = words >= _FEW_WORDS and counts[common] > _DOMINANT_SHARE * words
    if len(counts) == 1 and words >= _FEW_EQUAL_WORDS:
        raise UserError(
            f"{source}: all {words:,} words have the label {common!r}, which teaches nothing; name the column of the "
            "tags (config.data.tag_column, or tags=... in config.data.columns)"
        )
    if scheme != "io" and (has_outside_name or is_dominant):
        raise UserError(
            f"{source}: {counts[common]:,} of {words:,} words have the label {common!r}, as words outside of entities "
            f"do, but no tag is O: labels would be read as {reading}{remedy}"
        )
    if scheme == "io" and words >= _FEW_WORDS and counts["O"] < counts[common]:
        raise UserError(
            f"{source}: {counts[common]:,} of {words:,} words have the label {common!r} and {counts['O']:,} the label "
            f"'O', which should be the most common one among entities: labels would be read as {reading}{remedy}"
        )


def _parses(tag: str) -> list[tuple[tuple[bool, str], str, str]]:
    """Returns the ways to read a tag, as `((True if the letter is first, divider), letter of our schemes, type)`."""
    parses = []
    for is_first, pattern in ((True, _LETTER_FIRST), (False, _LETTER_LAST)):
        match = pattern.fullmatch(tag)
        if match and match["letter"].upper() in LETTERS:
            parses.append(((is_first, match["divider"]), LETTERS[match["letter"].upper()], match["type"]))
    return parses


def _fits(
    rewritten: Mapping[str, str], inside: Mapping[str, int], *, least: float, needs_begin: bool
) -> bool:
    """Returns True if the rewritten tags have at least a share of the words in entities, and B or I if needed."""
    if not rewritten or (needs_begin and not any(tag[0] in "BI" for tag in rewritten.values())):
        return False
    return sum(inside[tag] for tag in rewritten) >= least * sum(inside.values())


def _find_pairs(labels: list[str]) -> list[str]:
    """Returns the labels, sorted, if each consists of a type and an affix, and types and affixes go with each other.

    An affix is what a sign divides from the rest, or a letter of a scheme in front. Types of two levels, such as
    art-film and person-actor, are not meant: their second half goes with a single first half. Labels of a single type
    (begin_LOC, inside_LOC) count if an affix names a place in the entity.
    """
    if {"B", "I"} <= set(labels):
        return ["B", "I"]
    for split in (_split_first, _split_last, _split_letter):
        pairs = [split(label) for label in labels]
        types = Counter(kind for affix, kind in pairs if affix)
        affixes = Counter(affix for affix, _ in pairs if affix)
        are_all_split = labels and types.total() == len(labels)
        are_places = len(types) > 1 or split is _split_letter or any(x.casefold() in _PLACES for x in affixes)
        if (
            are_all_split
            and min(types.values()) > 1
            and min(affixes.values()) > len(types) / 2
            and are_places
        ):
            return sorted(labels)
    return []


def _split_first(label: str) -> tuple[str, str]:
    return _split(_AFFIX_FIRST, label)


def _split_last(label: str) -> tuple[str, str]:
    return _split(_AFFIX_LAST, label)


def _split(pattern: re.Pattern[str], label: str) -> tuple[str, str]:
    match = pattern.fullmatch(label)
    return (match["affix"], match["kind"]) if match and match["kind"] else ("", label)


def _split_letter(label: str) -> tuple[str, str]:
    return (label[0], label[1:]) if label[:1] in LETTERS and len(label) > 2 else ("", label)
