"""Publish a file: its columns, its cost, and how far its publication is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from stream_app.board.site import Site
from stream_app.client.publish import Refusal, column_lines, quote_lines
from stream_app.client.rows import USUAL_FIELDS
from stream_app.client.uploads import State, Upload
from stream_app.domain.policy import Destination
from stream_app.domain.text import count

KEEP: Final = "="
"""The choice that keeps a column's own title."""
_OF_THE_LEAD: Final = ("lead_id", "workspace", "destination", "not_after_ms", "source")
FIELDS: Final = (*dict.fromkeys(USUAL_FIELDS.values()), *_OF_THE_LEAD)
"""The names that a column may be given."""
_STEP: Final[dict[State, int]] = {"columns": 1, "checking": 1, "checked": 2}


class ColumnRow(msgspec.Struct, frozen=True):
    """A column of the file. `chosen`: one of `FIELDS`, `KEEP`, or '' if it is left out."""

    title: str
    chosen: str


class PublishPage(msgspec.Struct, frozen=True):
    """What the page shows before there is a file. `problem`: why the last one was refused."""

    most_mb: int
    problem: str = ""


class UploadPage(msgspec.Struct, frozen=True):
    """What the page shows of a file.

    Attributes:
        step: The index of the present step.
        columns: The columns with what they are called; `fields`: what they may be called.
        workspaces: The workspaces that may be chosen, and their destinations.
        share: How much is checked or published, in percent.
        lines: The cost in words, as `stream-app publish` prints it.
        notes: How the columns are read, in words.
        button: What the button that publishes says.
        digest: What it carries: the publication that the page describes.
    """

    id: str
    file: str
    import_id: str
    state: State
    step: int
    problem: str
    columns: list[ColumnRow]
    fields: tuple[str, ...]
    workspaces: dict[str, list[str]]
    workspace: str
    destination: str
    bulk: bool
    share: int
    rows: int
    ready: int
    refused: int
    reasons: list[tuple[str, int]]
    rejects: list[Refusal]
    lines: list[str]
    notes: list[str]
    button: str
    digest: str
    published: int
    going: list[str]


def upload_page(site: Site, upload: Upload) -> UploadPage:
    """Return the page of a file. It has the titles of its columns and no cell."""
    settings, summary, state = site.settings, upload.summary, upload.state
    known = state not in ("columns", "checking")
    notes = list(column_lines(settings, upload.titles, upload.names, summary, "choose it above")) if known else []
    credits_ = sum(each.credits for each in upload.quotes)
    share = upload.published / summary.ready if known and summary.ready else upload.share
    return UploadPage(
        id=upload.id,
        file=upload.file,
        import_id=upload.import_id,
        state=state,
        step=_STEP.get(state, 3),
        problem=upload.problem,
        columns=[_row(title, name) for title, name in zip(upload.titles, upload.names, strict=True)],
        fields=FIELDS,
        workspaces={name: sorted(each.alias for each in _of(site, name)) for name in sorted(settings.workspaces)},
        workspace=upload.options.workspace or "",
        destination=upload.options.destination or "",
        bulk=upload.options.bulk,
        share=int(share * 100),
        rows=summary.rows,
        ready=summary.ready,
        refused=summary.refused,
        reasons=summary.reasons.most_common(),
        rejects=list(upload.rejects) if known else [],
        lines=list(quote_lines(upload.quotes)) if known else [],
        notes=notes,
        button=f"Publish {count(summary.ready, 'lead')} for about {count(credits_, 'credit')}",
        digest=upload.digest if known else "",
        published=upload.published,
        going=sorted(summary.workspaces) if known else [],
    )


def names_of(upload: Upload, form: Mapping[str, str]) -> list[str]:
    """Return the names that a form gives to the columns; others stay. Raises ValueError if one cannot be chosen."""
    names: list[str] = []
    for number, (title, name) in enumerate(zip(upload.titles, upload.names, strict=True)):
        chosen = form.get(f"column-{number}", None)
        if chosen is None:
            names.append(name)
        elif chosen == KEEP:
            names.append(title.strip())
        elif chosen in FIELDS or not chosen:
            names.append(chosen)
        else:
            raise ValueError(f"a column cannot be called {chosen[:40]}: choose one of the list")
    return names


def _row(title: str, name: str) -> ColumnRow:
    return ColumnRow(title, name if name in FIELDS or not name else KEEP)


def _of(site: Site, workspace: str) -> list[Destination]:
    return [each for each in site.settings.destinations.values() if each.workspace == workspace]
