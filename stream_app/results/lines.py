"""The output formats of results: CSV or JSON Lines, each alone or with the row that the result belongs to."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import IO, Final, Literal

import msgspec

from stream_app.domain.messages import Result, Scalar
from stream_app.domain.text import for_json, for_spreadsheet

Format = Literal["csv", "jsonl"]

_META: Final = ("lead_id", "workspace", "destination", "source", "version", "at", "age_s")
MOST_FIELDS: Final = 5_000
"""Fields that have a column of their own: those that come first."""
OTHERS: Final = "other_fields"
"""The column with all other fields of a result, as a JSON object."""
_UNDECODABLE: Final = re.compile("[\ud800-\udfff]")  # what client/rows.py makes of bytes that are not UTF-8

_json: Final = msgspec.json.Encoder()


class Lines:
    """Call `learn` with every result, then `begin`, then `write` once for each line.

    CSV: the row's own columns, then the result's metadata, then its fields: those above `MOST_FIELDS` together in one
    column, so that no line grows with the names that other results have. A duplicate name gets the prefix `result_`.
    No title or value of a result can run as a formula in a spreadsheet, unless `raw`; the row's own columns stay
    unchanged. JSON Lines: the result as on Kafka; with a row, an object of `row` and `result`.
    """

    def __init__(self, out: IO[str], form: Format, *, raw: bool = False) -> None:
        self._out = out
        self._safe: Callable[[str], str] = str if raw else for_spreadsheet
        self._form = form
        self._csv = csv.writer(out, lineterminator="\n")
        self._fields: dict[str, None] = {}
        self.has_others = False
        self._titles: list[str] = []

    def learn(self, result: Result) -> None:
        """Note a result that will be written."""
        if self._form == "csv":
            for name in result.fields:
                if len(self._fields) < MOST_FIELDS:
                    self._fields[name] = None
                elif name not in self._fields:
                    self.has_others = True

    def begin(self, titles: list[str]) -> None:
        """Write the header. `titles` are those of the rows' own columns; empty if there are no rows."""
        self._titles = [_clean(title) for title in titles]
        if self._form == "csv":
            names = list(self._titles)
            for name in (*_META, *self._fields, *([OTHERS] if self.has_others else [])):
                while name in names:
                    name = f"result_{name}"
                names.append(self._safe(name))
            self._csv.writerow(names)

    def write(self, cells: tuple[str, ...], result: Result | None) -> None:
        """Write one line. `cells` are the row's; missing ones at its end are blank."""
        own = [_clean(cell) for cell in cells[: len(self._titles)]]
        own += [""] * (len(self._titles) - len(own))
        if self._form == "csv":
            self._csv.writerow(own + self._result_cells(result))
            return
        line: object = result
        if self._titles:
            line = {"row": dict(zip(self._titles, own, strict=True)), "result": result}
        self._out.write(for_json(_json.encode(line).decode()) + "\n")

    def _result_cells(self, result: Result | None) -> list[str]:
        if result is None:
            return [""] * (len(_META) + len(self._fields) + self.has_others)
        at = datetime.fromtimestamp(result.at_ms / 1000, UTC).isoformat(timespec="milliseconds")
        known = (result.lead_id, result.workspace, result.destination, result.source, result.version, at, result.age_s)
        cells = [self._cell(value) for value in (*known, *map(result.fields.get, self._fields))]
        return [*cells, self._others(result)] if self.has_others else cells

    def _others(self, result: Result) -> str:
        others = {name: value for name, value in result.fields.items() if name not in self._fields}
        return for_json(_json.encode(others).decode()) if others else ""

    def _cell(self, value: Scalar) -> str:
        if isinstance(value, bool):
            return "true" if value else "false"
        return "" if value is None else self._safe(str(value))


def _clean(text: str) -> str:
    return text if text.isascii() else _UNDECODABLE.sub("\ufffd", text)
