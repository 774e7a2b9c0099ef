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
_GLOBAL_COLUMNS = re.compile(r"#\s*global\.columns\s*=")
_LANGUAGE_PREFIX = re.compile(r"(?:simple|[a-z]{2,3}(?:-[a-z-]+)?):")
_TAG = re.compile(r"[Oo]|[BIESLUMW](?:[\W_].*)?|.*[\W_][BIESLUMW]")
_FEW_WORDS = 3  # what fewer words have in common means nothing
_MANY_REPEATS = 20  # words that are the same as the one before them, if all are

# Names of columns, without signs, in small letters.
WORD_NAMES = "word words token tokens form wordform text".split()
SYNTAX_NAMES = "chunk chunktag pos postag postags upos xpos".split()
TAG_NAMES = [
    *"tag tags label labels ner nertag nertags ne bio iob bioes slot slots annotation".split(),
    *"entity entities namedentity".split(),
    *SYNTAX_NAMES,
]
SENTENCE_NAMES = [
    *"sentence sentenceid sentenceidx sentenceindex sentenceno sentencenum sentencenumber".split(),
    *"sent sentid sentidx sentno sentnum".split(),
]
_OTHER_NAMES = "id index lemma feats head deprel docid document tokenid wordid start".split()


@dataclass(frozen=True)
class ColumnSettings:
    """The columns of a file, as far as the user says it."""

    word: int | None = None  # column of the words, from 0, or from the end if negative; None: the usual one
    tag: int | None = None  # the column of the tags
    delimiter: str = AUTO  # what divides columns; "auto": tabs or spaces, whichever the first sentence has
    is_conllu: bool = False  # True if the file must be CoNLL-U; other files are if they look like it


@dataclass(frozen=True)
class ColumnLayout:
    """The layout of a file with a word a line."""

    divider: str  # "\t", " " for runs of spaces, or another text between columns
    word: int  # the column of the words, from 0, or from the end if negative
    tag: int  # the column of the tags
    width: int = 0  # columns of the first sentence
    is_conllu: bool = False
    header: str = ""  # the line of column names, which may come more than once
    sentence: int | None = None  # the column that numbers or names sentences
    prefixes: tuple[str, ...] = ()  # each word begins with one of these, such as "en:"
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
        return not is_seen and not (-width <= self.tag < width and _TAG.fullmatch(row[self.tag]))

    def name_divider(self) -> str:
        """Returns the divider in words."""
        names = {"\t": "tabs", " ": "spaces", LABEL_STUDIO_DIVIDER: repr(LABEL_STUDIO_DIVIDER.strip())}
        return names.get(self.divider, repr(self.divider))

    def describe(self, tagged: bool = True) -> str:
        """Returns a phrase for the log; it names the column of the tags if they are read."""
        word, tag = (
            column % self.width if self.width and -self.width <= column < self.width else column
            for column in (self.word, self.tag)
        )
        if self.is_conllu:
            names = dict(enumerate(CONLLU_NAMES)) if self.width == len(CONLLU_NAMES) else {}
            text = f"CoNLL-U, words from {names.get(word, f'column {word}')}"
            text += f", tags from {names.get(tag, f'column {tag}')}" if tagged else ""
            text += " (config.data.word_column, .tag_column)" if tagged else " (config.data.word_column)"
        else:
            text = f"columns divided by {self.name_divider()}"
            if self.width > 1:
                text += f", words in column {word}{f' and tags in column {tag}' if tagged else ''} of {self.width}"
        if self.header:
            text += f"; header {self.header[:60]!r} left out"
        if self.sentence is not None:
            text += f"; sentences divided by column {self.sentence}"
        prefixes = " or ".join(map(repr, self.prefixes))
        return text + (f"; {prefixes} removed from all words" if prefixes else "")

    def strip_prefix(self, word: str) -> str:
        """Returns a word without its prefix; a word that is nothing else stays."""
        prefix = next((prefix for prefix in self.prefixes if word.startswith(prefix)), "")
        return word.removeprefix(prefix) or word


def _cells(row: Sequence[str], word: int) -> set[tuple[int, str]]:
    """Returns (column, cell) of a line, without its word."""
    return {(column, cell) for column, cell in enumerate(row) if column != word % len(row)}


def simplify_name(name: str) -> str:
    """Returns a column's name in small letters without signs: "sentence" for "Sentence #"."""
    return re.sub(r"[\W_]", "", name.casefold())


def choose_tag_name(names: Sequence[str]) -> int | None:
    """Returns the index of the last name of tags, but parts of speech only if there are no others."""
    fitting = [index for index, name in enumerate(names) if name in TAG_NAMES]
    return max(fitting, key=lambda index: (names[index] not in SYNTAX_NAMES, index), default=None)


def is_docstart(line: str) -> bool:
    """Returns True for a line that begins a document."""
    return DOCSTART in line and line.split()[0] == DOCSTART


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

    Raises `UserError` if the column of words holds numbers, the same word all over a sentence, or nothing.
    """
    prefixes, cells = set[str](), set[tuple[int, str]]()
    count = repeats = 0
    are_prefixed = True
    are_numbers = are_repeated = settings.word is None and not layout.is_conllu
    are_missing = layout.is_conllu
    for rows in _list_sentences(lines, layout):
        words = [row[layout.word] for row in rows]
        count += len(words)
        repeats += len(words) - 1
        are_numbers = are_numbers and len(rows[0]) > 1 and _are_numbers(words)
        are_repeated = are_repeated and len(rows[0]) > 2 and len(set(words)) == 1
        are_missing = are_missing and set(words) == {"_"}
        if are_prefixed:  # joined files may have several languages, a sentence has one
            sentence_prefixes = {
                match[0] if (match := _LANGUAGE_PREFIX.match(word)) else "" for word in words
            }
            are_prefixed = len(sentence_prefixes) == 1 and "" not in sentence_prefixes
            prefixes |= sentence_prefixes
        if layout.divider == " " and len(rows[0]) > 2:
            cells.update(*(_cells(row, layout.word) for row in rows))
    layout = replace(layout, cells=frozenset(cells))
    if count < _FEW_WORDS:
        return layout
    what = ""
    if are_numbers:
        what = f"column {layout.word} numbers the words of each sentence (1, 2, ...) and holds no words"
    elif are_repeated and repeats >= _MANY_REPEATS:
        what = f"all words of each sentence are the same in column {layout.word}"
    if what:
        raise UserError(
            f"{name}: {what}; set config.data.word_column to the column of the words, from 0, and .tag_column to that "
            "of the tags"
        )
    if are_missing:
        raise UserError(
            f"{name}: all words are '_' in column {layout.word}; the text of this treebank is not in the file, "
            "and has to be put in by the tool that comes with it"
        )
    return replace(layout, prefixes=tuple(sorted(prefixes)) if are_prefixed else ())


def _list_sentences(lines: Iterable[str], layout: ColumnLayout) -> Iterator[list[list[str]]]:
    """Yields the columns of each sentence's words. Lines that begin with "#" and those without words are left out."""
    rows: list[list[str]] = []
    for line in itertools.chain(lines, [""]):
        if not line.strip() or is_docstart(line):
            if rows:
                yield rows
            rows = []
        elif not line.startswith("#") and layout.holds_word(line):
            row = layout.split(line)
            if -len(row) <= layout.word < len(row):  # otherwise an error of the reader, which names the line
                rows.append(row)


def _are_numbers(words: Sequence[str]) -> bool:
    """Returns True if the words are 1, 2, ..., with ranges (1-2) and empty nodes (1.1) of CoNLL-U among them."""
    numbers = [word for word in words if not _SEVERAL_OR_EMPTY.fullmatch(word)]
    return numbers == [str(number) for number in range(1, len(numbers) + 1)]
