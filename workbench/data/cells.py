"""The cells of label tables: CSV text in and out, what a labels cell means, what a class is called.

Spreadsheets run cells that start like a formula, so every table we write guards them by an
apostrophe, and every table we read, ours or anybody's, loses it again.
"""

from __future__ import annotations

import csv
import difflib
import io
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from workbench.errors import DatasetError

SPREADSHEET_TRIGGERS = ("=", "+", "-", "@", "\t", "\r")
MOST_CLASSES = 10_000
LONGEST_NAME = 200
# control, format (zero-width, bidi), private use, lone surrogates, line and paragraph separators
INVISIBLE = {"Cc", "Cf", "Co", "Cs", "Zl", "Zp"}
# Letters and signs that draw nothing although Unicode calls them visible: fillers of Hangul and
# Braille, the joiner of graphemes.
BLANKS = "\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0"
# Cyrillic and Greek letters that people read as Latin ones.
LATIN_LOOK = str.maketrans(
    "аеорсухіјѕԁһԛԝӏАВЕНКМОРСТХІЈЅΑΒΕΖΗΙΚΜΝΟΡΤΥΧονρυ",
    "aeopcyxijsdhqwlABEHKMOPCTXIJSABEZHIKMNOPTYXovpu",
)
VARIATIONS = dict.fromkeys([*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)])  # of the same sign
WRONG_SEPARATORS = (",", ";", "/", "\t")

Labels = tuple[tuple[str, ...], tuple[str, ...]]  # known, unknown
EVERY = ("?",)  # in place of the unknown labels: every class, before the classes are known


def read_text(path: Path) -> str:
    """Read UTF-8 with or without a byte order mark and with any line ends."""
    if not path.is_file():
        raise DatasetError(f"{path} does not exist or is not a file.")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}.") from None
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DatasetError(f"{path.name} is UTF-16. Save it as UTF-8.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        wrong = f"byte 0x{data[error.start]:02X} is not UTF-8"
        raise DatasetError(f"{path.name}, line {line}: {wrong}. Save the file as UTF-8.") from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise DatasetError(f"{path.name}, line {line}: a NUL byte. Export the table again as text.")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def csv_rows(text: str, name: str, separator: str = ",") -> Iterator[tuple[int, list[str]]]:
    """Yield (line, fields) of every row that is not blank."""
    reader = csv.reader(io.StringIO(text), delimiter=separator, strict=True)
    line = 1
    try:
        for fields in reader:
            if fields and not (len(fields) == 1 and not fields[0].strip()):
                yield line, fields
            line = reader.line_num + 1
    except csv.Error as error:
        raise DatasetError(
            f"{name}, line {line}: {error}. A quoted value starts here and does not end as it "
            'should; a quote inside quotes is written "".'
        ) from None


def csv_text(columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """Return a table as CSV; a text that a spreadsheet would run is guarded, a number is none."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(
        [cell if isinstance(cell, (int, float)) else guard(str(cell)) for cell in row]
        for row in rows
    )
    return text.getvalue()


def guard(cell: str) -> str:
    """Keep a spreadsheet from running a cell as a formula: a leading apostrophe makes it text."""
    return f"'{cell}" if cell.lstrip("'").startswith(SPREADSHEET_TRIGGERS) else cell


def unguard(cell: str) -> str:
    """Undo `guard`, on our own tables and on anybody's."""
    if cell.startswith("'") and cell.lstrip("'").startswith(SPREADSHEET_TRIGGERS):
        return cell[1:]
    return cell


def parse_labels(cell: str) -> Labels:
    """Split `a|b|?c` into labels (a, b) and unknown (c); ValueError says what is wrong.

    A cell that is `?` alone says that nothing is known: unknown is then `EVERY`.
    """
    if not cell:
        return (), ()
    if cell == "?":
        return (), EVERY
    names = [name.strip() for name in cell.split("|")]
    if any(not name.removeprefix("?").strip() for name in names):
        raise ValueError(f'labels {cell!r} hold an empty name. Write them as "a|b"')
    labels = sorted(name for name in names if not name.startswith("?"))
    unknown = sorted(name[1:].strip() for name in names if name.startswith("?"))
    twice = [name for name in labels + unknown if (labels + unknown).count(name) > 1]
    if twice:
        raise ValueError(f"labels {cell!r} name {twice[0]!r} twice. Write every label once")
    return tuple(labels), tuple(unknown)


def folder_label(name: str) -> Labels:
    """Take the name of a class folder as the one label it is."""
    if "|" in name or name.startswith("?") or name != name.strip():
        raise ValueError(
            f'class folder {name!r}: a class cannot hold "|", start with "?" or have spaces around '
            "it. Rename the folder"
        )
    return (name,), ()


def join_labels(labels: Collection[str], unknown: Collection[str]) -> str:
    return "|".join([*labels, *(f"?{name}" for name in unknown)])


def nearest(name: str, names: Collection[str]) -> str:
    """Return ' Did you mean "…"' or nothing."""
    close = difflib.get_close_matches(name, names, n=1)
    return f'. Did you mean "{close[0]}"' if close else ""


def class_problems(names: Collection[str]) -> list[tuple[str, str]]:
    """List (class, what is wrong with its name and the remedy)."""
    problems = [(name, problem) for name in sorted(names) if (problem := _name_problem(name))]
    problems += _twins(names)
    for separator in WRONG_SEPARATORS:
        problems += _joined_names(names, separator)
    return problems


def _name_problem(name: str) -> str | None:
    if len(name) > LONGEST_NAME:
        long = f"class {name[:40]!r}… has {len(name)} characters"
        return f"{long}, at most {LONGEST_NAME}. Shorten it"
    for character in name:
        if unicodedata.category(character) in INVISIBLE or character in BLANKS:
            words = unicodedata.name(character, "control character").lower()
            return f"class {name!a} holds the invisible U+{ord(character):04X} ({words}). Remove it"
    return None


def _twins(names: Collection[str]) -> list[tuple[str, str]]:
    """Names that people cannot tell apart: case, Unicode composition, spaces, foreign letters."""
    seen: dict[tuple[str, str], str] = {}
    problems = []
    for name in sorted(names):
        others = [seen.setdefault(look, name) for look in _looks(name)]
        other = next((one for one in others if one != name), None)
        if other:
            text = (
                f"classes {other!a} and {name!a} look alike (letter case, accents written in two "
                "ways, letters of another alphabet, or spaces)"
            )
            problems.append((name, f"{text}. Give both the same spelling"))
    return problems


def _looks(name: str) -> list[tuple[str, str]]:
    """Return what a name looks like in any letter case, and with Latin letters for their likes."""
    plain = " ".join(unicodedata.normalize("NFKC", name).translate(VARIATIONS).split())
    return [("case", plain.casefold()), ("letters", plain.translate(LATIN_LOOK).casefold())]


def _joined_names(names: Collection[str], separator: str) -> list[tuple[str, str]]:
    """Classes such as `cat,dog` beside `cat`: the labels were joined by the wrong character."""
    parts = {name: {part.strip() for part in name.split(separator)} for name in sorted(names)}
    uses = Counter(part for name in parts for part in parts[name])
    words = f'looks like several labels joined by {separator!r}. Join labels by "|"'
    joined = (name for name in parts if len(parts[name]) > 1)
    return [
        (name, f"class {name!r} {words}")
        for name in joined
        if any(uses[part] > 1 for part in parts[name])
    ]
