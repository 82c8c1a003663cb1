"""`stream-app results`: write Clay's results as CSV or JSON Lines.

They may be joined to the published file.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from cyclopts import Parameter

from stream_app.cli.base import COMMON, NO, OK, Common
from stream_app.cli.files import STDIO, format_of, opened, private_file
from stream_app.cli.options import Map, WorkspaceName, mapping_of, ms
from stream_app.cli.output import say, show_json
from stream_app.cli.tables import reading
from stream_app.client.results.export import (
    MAX_FIELD_COLUMNS,
    OTHER_FIELDS,
    Export,
    Joined,
    ResultFilter,
    export,
)
from stream_app.client.results.lookup import find_imports
from stream_app.config import check_known
from stream_app.domain.model.errors import SettingsError, StreamAppError
from stream_app.domain.model.text import count

_NONE_YET: Final = (
    "ask again when Clay has answered; `stream-app imports` shows where the leads are, "
    "and `stream-app explain` what holds them"
)


def results(
    *,
    workspace: WorkspaceName = None,
    destination: Annotated[str | None, Parameter(metavar="ALIAS")] = None,
    since: datetime | None = None,
    format: Literal["csv", "jsonl"] | None = None,
    join: Annotated[Path | None, Parameter(metavar="INPUT.csv")] = None,
    import_id: Annotated[str | None, Parameter(name="--import", metavar="ID")] = None,
    map: Map = (),
    raw: bool = False,
    output: Annotated[Path, Parameter(name=("--output", "-o"))] = STDIO,
    common: Common = COMMON,
) -> int:
    """Write the last result of each lead (personal data) as CSV or JSON Lines.

    Exit code 1 if there is none.

    example:
      stream-app results --workspace acme --join leads.csv -o enriched.csv
      stream-app results --import 2026-11-26-kfdwzp --join leads.csv -o enriched.csv
      stream-app results --workspace acme --since 2026-11-24T08:00 --format jsonl

    Args:
        workspace: only this workspace (with --join: also for rows that name none)
        destination: only this one (with --join: for rows that name none)
        since: published at or after, such as 2026-11-24T08:00 (UTC)
        format: default: by the file's name; stdout is CSV
        join: a published CSV: write its readable rows with their results
        import_id: with --join: the import of that file, which knows its workspace
        map: with --join: as passed to `publish`
        raw: leave CSV cells unchanged: without the ' that stops formulas
        output: output file, or - for stdout
    """
    settings = common.settings()
    if common.json and output == STDIO:
        raise SettingsError(
            ["--json reports on the file of -o; to write JSON Lines to stdout, use --format jsonl"],
        )
    if import_id is not None:
        workspace = workspace or _workspace_of(common, import_id, join)
    check_known(settings, workspace=workspace, destination=destination)
    wanted = ResultFilter(workspace, destination, ms(since) if since else 0)
    with _joined(join, map, output) as joined, private_file(output) as out:
        done = asyncio.run(
            export(
                settings,
                wanted,
                out,
                format or format_of(output),
                joined,
                reading,
                say,
                raw=raw,
            ),
        )
    if common.json:
        show_json({**msgspec.to_builtins(done), "file": str(output)})
    else:
        _report(done, join)
    return OK if done.results else NO


def _workspace_of(common: Common, import_id: str, join: Path | None) -> str | None:
    """Return the workspace of an import.

    None if it has several, which the rows of its file name then.
    """
    if join is None:
        raise SettingsError(["--import needs --join: the file that was published"])
    imports = find_imports(common.settings("api"), import_id).imports
    if not imports:
        raise StreamAppError(
            f"no lead of import {import_id} is known: `stream-app imports` lists those that are",
        )
    return imports[0].workspace if len(imports) == 1 else None


@contextmanager
def _joined(join: Path | None, pairs: tuple[str, ...], output: Path) -> Iterator[Joined | None]:
    if join is None:
        if pairs:
            raise SettingsError(["--map needs --join"])
        yield None
        return
    if output != STDIO and output.exists() and output.samefile(join):
        raise SettingsError([f"{output}: is the file of --join; pass another name to -o"])
    mapping = mapping_of(pairs)
    with opened(join) as file:
        if not file.seekable():
            raise SettingsError([f"{join}: is read twice, so it must be a regular file"])
        yield Joined(str(join), file, mapping)


def _report(done: Export, join: Path | None) -> None:
    if done.broken_count:
        numbers = ", ".join(map(str, done.broken)) + (
            " ..." if done.broken_count > len(done.broken) else ""
        )
        say(
            f"{join}: left out {count(done.broken_count, 'row')} that cannot "
            f"be read: line {numbers}",
        )
    if done.unreadable:
        say(f"{count(done.unreadable, 'result')} cannot be read by this version, and were left out")
    if done.has_other_fields:
        say(
            (
                f"the results have more than {MAX_FIELD_COLUMNS:,} fields: the others are JSON in "
                f"the last column, {OTHER_FIELDS}"
            ),
        )
    results_of_rows = count(done.results, "result") + (
        f" of {count(done.lines, 'row')}" if join else ""
    )
    # Right after `publish` this is what everyone meets: Clay takes minutes for a row.
    say(results_of_rows if done.results else f"{results_of_rows} yet: {_NONE_YET}")
