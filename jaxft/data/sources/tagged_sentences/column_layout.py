"""Finds out how a file with a word a line is laid out: divider, header, columns, CoNLL-U, prefixes, comments."""

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from jaxft.errors import UserError

AUTO = "auto"
DOCSTART = "-DOCSTART-"
# Label Studio's CoNLL export writes this between word and tag; words and tags may hold spaces.
LABEL_STUDIO_DIVIDER = " -X- _ "
CONLLU_NAMES = "ID FORM LEMMA UPOS XPOS FEATS HEAD DEPREL DEPS MISC".split()

_CONLLU_ID = re.compile(r"\d+(?:[-.]\d+)?")
_SEVERAL_OR_EMPTY = re.compile(r"\d+[-.]\d+")
_MANY_REPEATS = 20  # words that are the same as the one before them, if all are
_GLOBAL_COLUMNS = re.compile(r"#\s*global\.columns\s*=")
_LANGUAGE_PREFIX = re.compile(r"([a-z][a-z-]{1,11}:)")
_TAG = re.compile(r"[Oo]|[BIESLUMW](?:[\W_].*)?|.*[\W_][BIESLUMW]")
_LETTERS = re.compile(r"[^a-z0-9]+")

# Names of columns, without signs, in small letters.
WORD_NAMES = ("word", "words", "token", "tokens", "form", "wordform", "text")
SYNTAX_NAMES = ("chunk", "chunktag", "pos", "postag", "postags", "upos", "xpos")
TAG_NAMES = (
    *("tag", "tags", "label", "labels", "ner", "nertag", "nertags", "ne", "bio", "iob", "bioes", "entity", "entities"),
    *("namedentity", "slot", "slots", "annotation", *SYNTAX_NAMES),
)  # fmt: skip
SENTENCE_NAMES = (
    *(
        "sentence",
        "sentenceid",
        "sentenceidx",
        "sentenceindex",
        "sentenceno",
        "sentencenum",
        "sentencenumber",
    ),
    *("sent", "sentid", "sentidx", "sentno", "sentnum"),
)
_OTHER_NAMES = (
    "id",
    "index",
    "lemma",
    "feats",
    "head",
    "deprel",
    "docid",
    "document",
    "tokenid",
    "wordid",
    "start",
)


@dataclass(frozen=True)
class ColumnSettings:
    """What the user says of a file's columns."""

    word: int | None = (
        None  # the column of the words, from 0, or from the end if negative; None: the usual one
    )
    tag: int | None = None  # the column of the tags
    delimiter: str = AUTO  # what divides columns; "auto": tabs or spaces, whichever the first sentence has
    is_conllu: bool = False  # True if the file must be CoNLL-U; other files are if they look like it


@dataclass(frozen=True)
class ColumnLayout:
    """How a file with a word a line is laid out."""

    divider: str  # "\t", " " for runs of spaces, or another text between columns
    word: int  # the column of the words, from 0, or from the end if negative
    tag: int  # the column of the tags
    width: int = 0  # columns of the first sentence
    is_conllu: bool = False
    header: str = ""  # the line of column names, which may come more than once
    sentence: int | None = None  # the column that numbers or names sentences
    prefix: str = ""  # what each word begins with, such as "en:"
    # Cells of lines that do not begin with "#", as (column, cell), except words; only in files divided by spaces.
    cells: frozenset[tuple[int, str]] = frozenset()

    def split(self, line: str) -> list[str]:
        """Splits a line into columns."""
        if self.divider == " ":
            return [column for column in line.split(" ") if column]
        if self.divider == LABEL_STUDIO_DIVIDER and self.divider in line:
            word, _, tag = line.rpartition(self.divider)
            return [word, "-X-", "_", tag.strip(" ")]
        return line.split(self.divider)

    def holds_word(self, line: str) -> bool:
        """Returns False for a header, and in CoNLL-U for multiword tokens (1-2) and empty nodes (1.1)."""
        if self.header and line == self.header:
            return False
        return not (self.is_conllu and _SEVERAL_OR_EMPTY.fullmatch(line.partition("\t")[0]))

    def is_comment(self, line: str, sentence: Sequence[str]) -> bool:
        """Returns True if a line before the words of a sentence is a comment.

        A line that begins with "#" is one if it has not as many columns as the sentence. Between spaces a comment may
        have as many; it then has no cell that is in the same column in another line, and no tag of an entity scheme.
        """
        if not line.startswith("#"):
            return False
        if self.is_conllu:
            return True
        row = self.split(line)
        words = [self.split(other) for other in sentence if not other.startswith("#")]
        width = len(words[0]) if words else self.width
        if len(row) != width:
            return len(line.split()) > 1  # "#tag" is a word, whose tag may be missing
        if self.divider != " " or width < 3:
            return False
        seen_here = set().union(*(_cells(other, self.word) for other in words))
        is_seen = any(cell in self.cells or cell in seen_here for cell in _cells(row, self.word))
        return not is_seen and not (self.tag < width and _TAG.fullmatch(row[self.tag]))

    def name_divider(self) -> str:
        """Returns the divider in words."""
        names = {"\t": "tabs", " ": "spaces", LABEL_STUDIO_DIVIDER: repr(LABEL_STUDIO_DIVIDER.strip())}
        return names.get(self.divider, repr(self.divider))

    def describe(self, tagged: bool = True) -> str:
        """Returns a phrase for the log; it names the column of the tags if they are read."""
        if self.is_conllu:
            word, tag = (
                CONLLU_NAMES[column] if self.width == len(CONLLU_NAMES) else f"column {column}"
                for column in (self.word, self.tag)
            )
            text = f"CoNLL-U, words from {word}"
            text += f", tags from {tag} (config.data.word_column, .tag_column)" if tagged else ""
        else:
            text = f"columns divided by {self.name_divider()}"
            if self.width > 1:
                text += f", words in column {self.word % self.width}"
                text += f" and tags in column {self.tag % self.width}" if tagged else ""
                text += f" of {self.width}"
        if self.header:
            text += f"; header {self.header[:60]!r} left out"
        if self.sentence is not None:
            text += f"; sentences divided by column {self.sentence}"
        return text + (f"; {self.prefix!r} removed from all words" if self.prefix else "")


def _cells(row: Sequence[str], word: int) -> set[tuple[int, str]]:
    """Returns (column, cell) of a line, without its word."""
    return {(column, cell) for column, cell in enumerate(row) if column != word % len(row)}


def simplify_name(name: str) -> str:
    """Returns a column's name in small letters without signs: "sentence" for "Sentence #"."""
    return _LETTERS.sub("", name.strip("\ufeff").casefold())


def choose_tag_name(names: Sequence[str]) -> int | None:
    """Returns the index of the last name of tags, but parts of speech only if there are no others."""
    fitting = [index for index, name in enumerate(names) if name in TAG_NAMES]
    return max(fitting, key=lambda index: (names[index] not in SYNTAX_NAMES, index), default=None)


def is_docstart(line: str) -> bool:
    """Returns True for a line that begins a document."""
    return re.match(r"\s*-DOCSTART-(?=\s|$)", line) is not None


def find_layout(lines: Iterable[str], settings: ColumnSettings, name: str) -> ColumnLayout:
    """Returns the layout of a file.

    The first sentence decides on divider, header and columns; a later line that does not fit is an error of the reader.
    All lines decide on prefixes of words, and on what is not a comment.

    Args:
      lines: the lines of the file without line ends, or those up to the end of the first sentence.
      settings: what the user says.
      name: the name of the file, for messages.

    Raises:
      UserError: the column of the words holds none.
    """
    lines = iter(lines)
    first = []
    for line in lines:
        first.append(line)
        if not line.strip() and _find_words(first):
            break
    layout = _find_structure(first, settings)
    return _examine_words(itertools.chain(first, lines), layout, settings, name)


def _find_words(lines: Sequence[str]) -> list[str]:
    """Returns the lines that are not blank, comments or `-DOCSTART-`."""
    return [line for line in lines if line.strip() and not line.startswith("#") and not is_docstart(line)]


def _find_structure(first: Sequence[str], settings: ColumnSettings) -> ColumnLayout:
    """Returns the layout that the lines up to the end of the first sentence show."""
    words = _find_words(first) or [line for line in first if line.strip() and not is_docstart(line)]
    if settings.is_conllu or (settings.delimiter in (AUTO, "\t") and words):
        names = next((line.partition("=")[2].split() for line in first if _GLOBAL_COLUMNS.match(line)), None)
        if names is None and (settings.is_conllu or all(map(_is_conllu_line, words))):
            names = CONLLU_NAMES
        if names is not None:
            return _name_conllu_columns(names, settings)
    divider = settings.delimiter
    if divider == AUTO and words and all(LABEL_STUDIO_DIVIDER in line for line in words):
        divider = LABEL_STUDIO_DIVIDER
    elif divider == AUTO:
        divider = "\t" if any("\t" in line for line in words) else " "
    layout = ColumnLayout(
        divider, 0 if settings.word is None else settings.word, -1 if settings.tag is None else settings.tag
    )
    rows = [layout.split(line) for line in words[:1]]
    if not rows:
        return layout
    return _read_header(words[0], rows[0], replace(layout, width=len(rows[0])), settings)


def _name_conllu_columns(names: Sequence[str], settings: ColumnSettings) -> ColumnLayout:
    """Returns the layout of CoNLL-U, or of CoNLL-U Plus, whose first line names its columns."""
    columns = {name: index for index, name in enumerate(names)}
    word = columns.get("FORM", 0) if settings.word is None else settings.word
    tag = columns.get("UPOS", -1) if settings.tag is None else settings.tag
    return ColumnLayout("\t", word, tag, len(names), is_conllu=True)


def _is_conllu_line(line: str) -> bool:
    row = line.split("\t")
    return len(row) == len(CONLLU_NAMES) and _CONLLU_ID.fullmatch(row[0]) is not None


def _read_header(
    line: str, row: Sequence[str], layout: ColumnLayout, settings: ColumnSettings
) -> ColumnLayout:
    """Returns the layout with the header if the first line names columns; it then also says which they are."""
    names = [simplify_name(cell) for cell in row]
    known = {*WORD_NAMES, *TAG_NAMES, *SENTENCE_NAMES, *_OTHER_NAMES}
    if len(set(names)) < len(names) or known.isdisjoint(names) or sum(name in known for name in names) < 2:
        return layout
    word = next((index for index, name in enumerate(names) if name in WORD_NAMES), None)
    if word is None:
        return layout
    tag = choose_tag_name(names)
    return replace(
        layout,
        word=word if settings.word is None else settings.word,
        tag=settings.tag if settings.tag is not None else len(names) - 1 if tag is None else tag,
        width=len(row),
        header=line,
        sentence=next((index for index, name in enumerate(names) if name in SENTENCE_NAMES), None),
    )


def _examine_words(
    lines: Iterator[str], layout: ColumnLayout, settings: ColumnSettings, name: str
) -> ColumnLayout:
    """Returns the layout with what all words show.

    Raises `UserError` if the words are numbers that count the words of each sentence, or all missing.
    """
    prefix, cells, count, place, previous, repeats = None, set(), 0, 0, "", 0
    are_numbers, are_missing = settings.word is None and not layout.is_conllu, layout.is_conllu
    for line in lines:
        if not line.strip() or is_docstart(line):
            place, previous = 0, ""
        if not line.strip() or is_docstart(line) or line.startswith("#") or not layout.holds_word(line):
            continue
        row = layout.split(line)
        if not -len(row) <= layout.word < len(row):
            continue  # an error of the reader, which names the line
        word = row[layout.word]
        count += 1
        is_number = _CONLLU_ID.fullmatch(word) is not None
        place += not _SEVERAL_OR_EMPTY.fullmatch(word)
        are_numbers = (
            are_numbers and is_number and len(row) > 1 and (not word.isdigit() or int(word) == place)
        )
        are_missing = are_missing and word == "_"
        if repeats >= 0 and previous:
            repeats = repeats + 1 if word == previous and len(row) > 1 else -1
        previous = word
        if prefix != "":
            match = _LANGUAGE_PREFIX.match(word)
            prefix = match[1] if match and prefix in (None, match[1]) else ""
        if layout.divider == " " and len(row) > 2:
            cells |= _cells(row, layout.word)
    if count < 3:
        return replace(layout, cells=frozenset(cells))
    if are_numbers:
        raise UserError(
            f"{name}: column {layout.word} numbers the words of each sentence (1, 2, ...) and holds no words; set "
            "config.data.word_column to the column of the words, from 0, and .tag_column to that of the tags"
        )
    if repeats >= _MANY_REPEATS and settings.word is None:
        raise UserError(
            f"{name}: all words of each sentence are the same in column {layout.word}; set config.data.word_column to "
            "the column of the words, from 0, and .tag_column to that of the tags"
        )
    if are_missing:
        raise UserError(
            f"{name}: all words are '_' in column {layout.word}; the text of this treebank is not in the file, "
            "and has to be put in by the tool that comes with it"
        )
    return replace(layout, prefix=prefix or "", cells=frozenset(cells))
