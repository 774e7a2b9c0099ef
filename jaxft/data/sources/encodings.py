"""Finds out how the bytes of a file encode text, and names files that are not text for what they are."""

import codecs
import itertools
import re
import sys
from collections.abc import Iterable, Iterator
from typing import AnyStr

from jaxft.errors import UserError

UTF8 = "utf-8"

# First bytes -> what such a file is, and what to do with it.
_SIGNATURES = (
    (b"\x1f\x8b", "compressed with gzip; unpack it with `gunzip`"),
    (b"BZh", "compressed with bzip2; unpack it with `bunzip2`"),
    (b"\xfd7zXZ\x00", "compressed with xz; unpack it with `unxz`"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd; unpack it with `unzstd`"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive; unpack it with `7z x`"),
    (b"PK\x03\x04", "a zip archive; unpack it with `unzip` and name a file in it"),
    (b"\xd0\xcf\x11\xe0", "an old Office document (.xls or .doc); save its table as CSV in UTF-8"),
    (b"%PDF-", "a PDF; save its text as UTF-8"),
    (b"{\\rtf", "an RTF document; save its text as UTF-8"),
    (b"PAR1", "a Parquet file; set config.data.format=parquet"),
    (b"ARROW1", "an Arrow file; write it as Parquet (`datasets`: Dataset.from_file(...).to_parquet(...))"),
    (
        b"\xff\xff\xff\xff",
        "an Arrow stream; write it as Parquet (`datasets`: Dataset.from_file(...).to_parquet(...))",
    ),
    (b"version https://git-lfs.github.com/spec/", "a pointer of Git LFS; get the file with `git lfs pull`"),
    (b"SQLite format 3\x00", "an SQLite database; write the table as CSV or JSON lines"),
    (b"\x93NUMPY", "a NumPy array; write the data as CSV or JSON lines"),
    (b"\x80\x04", "a pickled Python object; write the data as CSV or JSON lines"),
    (b"\x80\x05", "a pickled Python object; write the data as CSV or JSON lines"),
)
_OFFICE = (
    (b"xl/", "an Excel workbook (.xlsx); save its sheet as CSV in UTF-8"),
    (b"word/", "a Word document (.docx); save its text as UTF-8"),
)
# Encodings whose texts an error shows: of languages with a few letters outside of ASCII, and of others.
_LATIN = ("cp1252", "cp1250", "cp1254", "gb18030", "cp932", "cp949", "big5")
_OTHER_SCRIPTS = ("gb18030", "cp932", "cp949", "big5", "cp1251", "koi8-r", "cp1253", "cp1252")
_SHOWN = 4
_CONTROL = re.compile("[\x80\x82-\x8c\x8e\x91-\x9c\x9e\x9f]")  # in Latin-1; in Windows-1252 they are printed
_MARKS = (  # UTF-32 comes first, because its mark begins with that of UTF-16
    (codecs.BOM_UTF8, UTF8),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def describe_binary(sample: bytes) -> str | None:
    """Returns what a file is that holds no text, and what to do with it; None for text.

    Args:
      sample: the first bytes of the file.
    """
    for signature, description in _SIGNATURES:
        if sample.startswith(signature):
            if signature.startswith(b"PK"):
                return next((text for name, text in _OFFICE if name in sample), description)
            return description
    return None


def detect_encoding(sample: bytes) -> str:
    """Returns the encoding of a file by its first bytes: UTF-16 or UTF-32 if they show it, else UTF-8."""
    for mark, encoding in _MARKS:
        if sample.startswith(mark):
            return encoding
    zeros = [sample[start::2].count(0) for start in (0, 1)]
    if len(sample) >= 4 and max(zeros) > len(sample) // 8 and min(zeros) <= len(sample) // 64:
        return "utf-16-be" if zeros[0] > zeros[1] else "utf-16-le"
    return UTF8


def decode_sample(sample: bytes, encoding: str) -> str:
    """Returns the text of a file's first bytes without a mark; bytes that are not in the encoding are replaced."""
    decoder = codecs.getincrementaldecoder(encoding)("replace")
    return decoder.decode(sample).removeprefix("\ufeff")


def advise(line: bytes, place: int) -> str:
    """Returns what to do about a line that is not UTF-8: how it reads in usual encodings, and the setting.

    Args:
      line: the bytes of the line.
      place: the index of the first byte that is not UTF-8.
    """
    high = sum(byte >= 0x80 for byte in line)
    usual = _OTHER_SCRIPTS if 3 * high > len(line) else _LATIN
    readings: dict[str, str] = {}  # the text around the byte, and the first encoding in which it reads so
    for encoding in usual:
        try:
            start = len(line[:place].decode(encoding))
            text = line.decode(encoding).strip("\r\n")[max(0, start - 15) : start + 20]
        except UnicodeDecodeError:
            continue
        if text.isprintable():
            readings.setdefault(text, encoding)
    if not readings:
        return "set config.data.encoding to that of the file"
    shown = ", ".join(f"{encoding} reads {text!r}" for text, encoding in list(readings.items())[:_SHOWN])
    return f"set config.data.encoding to that of the file; {shown}"


def is_known(encoding: str) -> bool:
    """Returns True for the names of encodings of text that Python knows."""
    try:
        "".encode(encoding)
    except LookupError:
        return False
    return True


def is_utf8(encoding: str) -> bool:
    """Returns True for the names of UTF-8, with or without a mark."""
    return codecs.lookup(encoding).name in ("utf-8", "utf-8-sig")


def is_latin_1(encoding: str) -> bool:
    """Returns True for the names of Latin-1, in whose place Windows-1252 is often meant."""
    return codecs.lookup(encoding).name == "iso8859-1"


def find_control(text: str) -> str | None:
    """Returns the first character of a text in Latin-1 that shows that Windows-1252 is meant, or None."""
    match = _CONTROL.search(text)
    return match[0] if match else None


def describe_control(character: str, encoding: str) -> str:
    """Returns what is wrong with a text in Latin-1 that has a control character."""
    return (
        f"0x{ord(character):02x} is a control character in {encoding}, and "
        f"{character.encode('latin-1').decode('cp1252')!r} in Windows-1252; set config.data.encoding=cp1252"
    )


def has_lone_returns(sample: AnyStr) -> bool:
    """Returns True if the lines of a file end with CR alone, as its first bytes or characters show."""
    feed, carriage_return = ("\n", "\r") if isinstance(sample, str) else (b"\n", b"\r")
    return feed not in sample and carriage_return in sample[:-1]  # the last may be half of CR LF


def split_lines(
    pieces: Iterable[bytes], encoding: str, name: str, max_bytes: int = sys.maxsize
) -> Iterator[bytes]:
    """Yields the lines of bytes in any encoding as lines in UTF-8, each with its line end.

    LF ends a line. CR does if the first piece has no LF. A line longer than `max_bytes` is cut, but remains longer.

    Args:
      pieces: the bytes of the file.
      encoding: the encoding, as Python names it.
      name: the name of the file, for messages.
      max_bytes: the most bytes of a line.

    Raises:
      UserError: the bytes are not in the encoding, or encode what is no text.
    """
    is_latin = is_latin_1(encoding)
    decoder, number, line_end = codecs.getincrementaldecoder(encoding)(), 1, ""
    begin: list[str] = []  # of the line whose end was not read yet
    for piece in itertools.chain(pieces, [b""]):  # the empty piece ends the text
        try:
            text = decoder.decode(piece, final=not piece)
        except UnicodeDecodeError as error:
            number += error.object[: error.start].decode(encoding, "ignore").count(line_end or "\n")
            raise UserError(
                f"{name}, line {number}: 0x{error.object[error.start]:02x} is not {encoding} ({error.reason}); "
                "set config.data.encoding to the encoding of the file"
            ) from None
        if is_latin and (control := _CONTROL.search(text)):
            number += text[: control.start()].count(line_end or "\n")
            raise UserError(f"{name}, line {number}: {describe_control(control[0], encoding)}")
        if not line_end and text:
            line_end = "\r" if has_lone_returns(text) else "\n"
        *lines, rest = text.split(line_end or "\n")
        for line in lines:
            yield encode_text("".join([*begin, line, line_end]), f"{name}, line {number}", encoding)
            begin.clear()
            number += 1
        if rest and sum(map(len, begin)) <= max_bytes:
            begin.append(rest)
    if begin:
        yield encode_text("".join(begin), f"{name}, line {number}", encoding)


def encode_text(text: str, where: str, encoding: str) -> bytes:
    """Returns a text in UTF-8. Raises `UserError` for half a surrogate pair, which a few encodings can spell."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise UserError(
            f"{where}: half a surrogate pair in {encoding}, which is no text; set config.data.encoding to that of "
            "the file, or remove it"
        ) from None
