"""Reads the rows of a CSV or JSON Lines file as bytes: an invalid row does not affect the next.

Memory is bounded by one row: a line that is too long, or a quote that never closes, is refused, and
reading continues. The columns of a CSV become fields of a lead by name, by common spellings, or by
`--map`.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from io import BytesIO
from itertools import islice
from typing import IO, Any, Final

import msgspec

from stream_app.domain.lead.read import TOO_DEEP, Unreadable
from stream_app.domain.model.messages import Lead
from stream_app.domain.model.text import count
from stream_app.domain.model.untrusted import NestedTooDeep, check_depth

_SHOWN: Final = 20
DELIMITERS: Final = (",", ";", "\t", "|")

LEAD_LEVEL: Final = frozenset(Lead.__struct_fields__) - {"fields"}
"""Names that belong to the lead itself. Every other name is one of its fields."""

_SPELLINGS: Final = {
    "email": (
        "e mail, email address, e mail address, mail, work email, business email, contact email, "
        "e mail adresse, email adresse, mailadresse"
    ),
    "first_name": "firstname, first, given name, forename, vorname",
    "last_name": "lastname, last, surname, family name, nachname",
    "full_name": "fullname, name, contact name",
    "company_name": "company, companyname, organization, organisation, account name, firma",
    "domain": (
        "website, web site, company domain, company website, company url, "
        "homepage, website url, webseite"
    ),
    "linkedin_url": (
        "linkedin, linkedin profile, linkedin profile url, person linkedin url, linkedinurl"
    ),
    "title": "job title, jobtitle, position, role",
    "phone": "phone number, telephone, tel, mobile, mobile phone, telefon, telefonnummer",
    "country": "country name, land",
    "lead_id": "leadid, lead, crm id, crmid",
}

_USUAL: Final = {
    spelling: field for field, spellings in _SPELLINGS.items() for spelling in spellings.split(", ")
} | {name.replace("_", " "): name for name in (*_SPELLINGS, *LEAD_LEVEL)}


USUAL_FIELDS: Final = {name: field for name, field in _USUAL.items() if field not in LEAD_LEVEL} | {
    field: field for field in _SPELLINGS if field not in LEAD_LEVEL
}
"""Common spellings, and the field that each one means."""


def name_columns(header: Sequence[str], mapping: Mapping[str, str]) -> list[str]:
    """Return the name of each column's cells; "" for a column without a name.

    A column whose name is given to another column keeps its own header.

    Args:
        header: The titles of the columns.
        mapping: Field -> header, from `--map`. It wins over a header that equals the name, which
            wins over the common spellings.

    Raises:
        ValueError: `mapping` names a header that does not exist, or two columns would have the same
            name.
    """
    titles = [title.strip() for title in header]
    for field, title in mapping.items():
        if title not in titles:
            raise ValueError(
                f"--map {field}={title}: no such column; there are: {', '.join(titles)}",
            )
    asked = {title: field for field, title in mapping.items()}
    consumed = {*mapping, *titles}
    names = []
    for title in titles:
        # What stands in brackets, as in "E-mail (work)", does not change what the column is.
        usual = _usual_name(title) or _usual_name(title.partition("(")[0]) or title
        name = asked.get(title) or (title if usual in consumed else usual)
        consumed.add(name)
        names.append(name)
    check_unique(names, "rename one, or use --map")
    return names


def _usual_name(title: str) -> str | None:
    """Return the field that a title means; None if it is no common spelling."""
    return _USUAL.get(re.sub(r"[\W_]+", " ", title).strip().lower())


def check_unique(names: Sequence[str], correct: str) -> None:
    """Raise ValueError if two columns have the same name; `correct` says what to do then."""
    if twice := sorted(name for name, columns in Counter(names).items() if name and columns > 1):
        shown = ", ".join(twice[:_SHOWN]) + (" and others" if len(twice) > _SHOWN else "")
        raise ValueError(f"two columns would have the name {shown}; {correct}")


def guess_columns(titles: Sequence[str]) -> list[str]:
    """Return a name for each column as `name_columns` does.

    Of columns with the same name the first one has it.
    """
    try:
        return name_columns(titles, {})
    except ValueError:
        names = [name for title in titles for name in name_columns([title], {})]
        return ["" if name in names[:number] else name for number, name in enumerate(names)]


MAX_LINE_BYTES: Final = 1_048_576
_FIRST_BYTES: Final = 65_536
MAX_LINES_PER_ROW: Final = 100
"""A quoted cell may contain line breaks. A row with more lines has an unclosed quote."""

_NOT_CSV: Final = ("PK\x03\x04", "%PDF-", "\udcd0\udccf\x11", "\x1f\udc8b")
"""How xlsx and zip, PDF, xls and gzip begin."""
_NOT_UTF8: Final = re.compile("[\udc80-\udcff]")  # what surrogateescape makes of other bytes

Draft = dict[str, Any]
"""A lead before it is checked: the fields of `Lead` as plain values."""


class FileRow(msgspec.Struct, frozen=True, gc=False):
    """One row of the file.

    Attributes:
        line: The line on which it begins, from 1.
        draft: The lead, or why it cannot be read.
        cells: The cells of a CSV row.
        raw: The row's own bytes or text; empty for a line that is too long.
    """

    line: int
    draft: Draft | Unreadable
    cells: tuple[str, ...] = ()
    raw: bytes | str = b""

    @property
    def text(self) -> str:
        raw = self.raw.encode("utf-8", "surrogateescape") if isinstance(self.raw, str) else self.raw
        return raw.decode("utf-8", "replace").rstrip("\r\n")


class Sheet(msgspec.Struct, frozen=True):
    """A CSV.

    Attributes:
        titles: The titles of its columns.
        names: The name of each column's cells; '' for a column that is left out.
        rows: Its rows.
    """

    titles: list[str]
    names: list[str]
    rows: Iterator[FileRow]


class _Unclosed(Exception):
    """A quoted cell spans too many lines."""


def read_jsonl(source: IO[bytes]) -> Iterator[FileRow]:
    """Yield one row for each line that is not blank.

    The line is a lead with `fields`, a flat object, or a line of `dlq export`.
    """
    for line, raw in _lines(source):
        if raw is None:
            yield FileRow(line, _TOO_LONG)
        elif raw.strip(b" \t\r\n\xef\xbb\xbf"):
            yield FileRow(line, _draft_of_json(raw.removeprefix(b"\xef\xbb\xbf")), raw=raw)


def open_csv(source: IO[bytes], mapping: Mapping[str, str]) -> Sheet:
    """Open a CSV and read its header.

    Its rows have no blank cells. Raises ValueError if the header is invalid.
    """
    return _open(source, lambda titles: name_columns(titles, mapping))


def open_named_csv(source: IO[bytes], names: Sequence[str]) -> Sheet:
    """Open a CSV whose columns have these names; '': left out.

    Raises ValueError if they do not fit the header.
    """

    def naming(titles: list[str]) -> list[str]:
        if len(titles) != len(names):
            has = count(len(titles), "column")
            raise ValueError(f"the header has {has}, and {count(len(names), 'was', 'were')} named")
        check_unique(names, "name one of them otherwise, or leave it out")
        return list(names)

    return _open(source, naming)


def read_titles(source: IO[bytes]) -> list[str]:
    """Return the titles of the columns of a CSV. Raises ValueError if the header is invalid."""
    return _open(source, list).titles


def first_cells(source: IO[bytes], rows: int) -> list[list[str]]:
    """Return the cells of each column in the first rows, as far as the CSV's first bytes hold them.

    Empty if its header is longer. Nothing more is read: a file may begin with any number of blank
    lines.
    """
    try:
        sheet = _open(BytesIO(source.read(_FIRST_BYTES)), list)
    except ValueError:
        return []
    cells = [row.cells for row in islice(sheet.rows, rows)]
    return [[row[n].strip() for row in cells if n < len(row)] for n in range(len(sheet.titles))]


def _open(source: IO[bytes], naming: Callable[[list[str]], list[str]]) -> Sheet:
    feed = _Feed(source)
    first = next(feed, None)
    if first is None:
        return Sheet([], [], iter(()))
    if first.startswith(_NOT_CSV):
        raise ValueError(
            "it is a spreadsheet, an archive or a document, not CSV; save it as CSV UTF-8",
        )
    if "\0" in first or _NOT_UTF8.search(first):
        raise ValueError("the header is not UTF-8; save the file as CSV UTF-8")
    header = first.removeprefix("\ufeff")
    bare = re.sub(r'"[^"]*"', "", header)  # what stands in quotes delimits nothing
    try:
        reader = csv.reader(feed, delimiter=max(DELIMITERS, key=bare.count), strict=True)
        feed.put_back([(feed.row[0][0], header)])
        titles = next(reader)
    except (csv.Error, _Unclosed, StopIteration):
        raise ValueError("the header cannot be read as CSV") from None
    names = naming(titles)
    return Sheet(titles, names, _records(feed, reader, names))


def draft_of(values: Mapping[str, Any]) -> Draft:
    """Return a new draft of a lead with `fields`, or of a flat object."""
    return dict(values) if isinstance(values.get("fields"), dict) else flat_draft(values)


def flat_draft(values: Mapping[str, Any]) -> Draft:
    """Turn a flat object into a lead.

    Names that a lead itself has belong to it, and the rest are its fields.
    """
    draft: Draft = {"fields": {}}
    for name, value in values.items():
        (draft if name in LEAD_LEVEL else draft["fields"])[name] = value
    return draft


def _draft_of_json(raw: bytes) -> Draft | Unreadable:
    try:
        check_depth(raw)
        document = msgspec.json.decode(raw)
    except NestedTooDeep:
        return TOO_DEEP
    except ValueError:
        return Unreadable("not_json", "The line is not JSON")
    if not isinstance(document, dict):
        return Unreadable("not_an_object", "The line is JSON, but not an object")
    if "record_id" in document and "headers" in document:  # of `stream-app dlq export`
        lead = document.get("lead")
        if not isinstance(lead, dict):
            return Unreadable(
                "no_lead",
                "The dead letter holds no JSON object: write one as lead, or remove the line",
            )
        document = lead
    return draft_of(document)


def _records(feed: _Feed, reader: Any, names: list[str]) -> Iterator[FileRow]:
    while True:
        feed.row.clear()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except (csv.Error, _Unclosed):
            # Give up only the first line: the following ones may be valid rows.
            line, first = feed.row[0]
            feed.put_back(feed.row[1:])
            yield FileRow(line, _BROKEN, raw=first or "")
            continue
        line = feed.row[0][0]
        text = "".join(part or "" for _, part in feed.row)
        if any(part is None for _, part in feed.row):
            yield FileRow(line, _TOO_LONG)
        elif any(cells[len(names) :]):
            says = f"The row has {len(cells)} cells, the header {len(names)}"
            yield FileRow(line, Unreadable("too_many_cells", says), raw=text)
        elif any(cells):
            named = {name: cell for name, cell in zip(names, cells, strict=False) if cell and name}
            yield FileRow(line, flat_draft(named), tuple(cells), text)


class _Feed:
    """Lines of text for csv.reader.

    It keeps the lines of the current row in `row`, because they may be read again.
    """

    def __init__(self, source: IO[bytes]) -> None:
        self._lines = _lines(source)
        self._again: list[tuple[int, str | None]] = []
        # Number and text (None: too long) of each line. The reader clears it where a row begins.
        self.row: list[tuple[int, str | None]] = []

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> str:
        if len(self.row) >= MAX_LINES_PER_ROW:
            raise _Unclosed
        if self._again:
            place = self._again.pop()
        else:
            line, raw = next(self._lines)
            place = (line, None if raw is None else raw.decode("utf-8", "surrogateescape"))
        self.row.append(place)
        return place[1] or "\n"

    def put_back(self, lines: Sequence[tuple[int, str | None]]) -> None:
        """Begin a new row with these lines, and go on with what follows them."""
        self._again.extend(reversed(lines))
        self.row.clear()


_BROKEN: Final = Unreadable(
    "bad_csv",
    "The row cannot be read as CSV: broken quotes or line breaks, or a cell above 128 KB",
)
_TOO_LONG: Final = Unreadable("oversize", f"The line has more than {MAX_LINE_BYTES} bytes")


def _lines(source: IO[bytes]) -> Iterator[tuple[int, bytes | None]]:
    """Yield lines with their number, from 1; None for a line that is too long."""
    line = 0
    while raw := source.readline(MAX_LINE_BYTES + 1):
        line += 1
        if len(raw) <= MAX_LINE_BYTES:
            yield line, raw
            continue
        while raw and not raw.endswith(b"\n"):
            raw = source.readline(MAX_LINE_BYTES)
        yield line, None
