"""Options that several commands have: which dead letters, who asks and why, ages and times."""

# No `from __future__ import annotations`: cyclopts looks for the types of inherited options in the
# subclass's module.

import getpass
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final, Literal

from cyclopts import Group, Parameter, validators

from stream_app.cli.base import OK, WHOLE, Common, OptionalWhole, WholeNumber
from stream_app.cli.output import console, show
from stream_app.config import Settings
from stream_app.domain.dead_letter.causes import Filter, LetterSource
from stream_app.domain.model.errors import SettingsError
from stream_app.replay.plan import check_filter

Positive = Annotated[WholeNumber, Parameter(validator=validators.Number(gte=1))]
OptionalPositive = Annotated[OptionalWhole, Parameter(validator=validators.Number(gte=1))]
WorkspaceName = Annotated[str | None, Parameter(metavar="NAME")]
Map = Annotated[tuple[str, ...], Parameter(metavar="FIELD=COLUMN")]

_WATCH_EVERY_S: Final = 5.0
_MAX_AGE: Final = timedelta(days=100_000)


def _is_past(_: object, age: timedelta | None) -> None:
    if age is not None and not timedelta(0) < age < _MAX_AGE:
        raise ValueError("write the age as in 30m, 2h or 7d")


@Parameter(
    name="*",
    group=Group("Which dead letters (options combine; each may be repeated)", sort_key=3),
)
@dataclass(frozen=True, kw_only=True)
class Which:
    """The options that select dead letters.

    Each option narrows the selection; repeating one widens it.
    """

    reason: tuple[str, ...] = ()
    """such as http_503 or not_json"""
    status: Annotated[tuple[int, ...], WHOLE, Parameter(metavar="CODE")] = ()
    """Clay's HTTP status"""
    destination: Annotated[tuple[str, ...], Parameter(metavar="ALIAS")] = ()
    """a destination's alias"""
    workspace: Annotated[tuple[str, ...], Parameter(metavar="NAME")] = ()
    """a workspace's name"""
    lead: Annotated[tuple[str, ...], Parameter(metavar="LEAD_ID")] = ()
    """a lead's id"""
    imports: Annotated[tuple[str, ...], Parameter(name="--import", metavar="ID")] = ()
    """an import's id, as `stream-app imports` lists it: what failed of one list"""
    disposition: tuple[Literal["failed", "poison", "policy", "foreign", "deferred"], ...] = ()
    """poison, policy and foreign dead letters are sent back only if named here"""
    since: datetime | None = None
    """written at or after, such as 2026-11-24T08:00 (UTC)"""
    until: datetime | None = None
    """written before"""
    older_than: Annotated[timedelta | None, Parameter(validator=_is_past)] = None
    """such as 30m, 2h or 7d"""

    def checked(self, settings: Settings, source: LetterSource) -> Filter:
        """Return the filter that these options describe, as of now.

        Raises SettingsError as `check_filter`.
        """
        wanted = self.filter
        check_filter(settings, source, wanted)
        return wanted

    @property
    def filter(self) -> Filter:
        """The filter, not checked."""
        ends = [ms(self.until)] if self.until else []
        if self.older_than is not None:
            ends.append(int((time.time() - self.older_than.total_seconds()) * 1000))
        return Filter(
            reasons=frozenset(self.reason),
            statuses=frozenset(self.status),
            destinations=frozenset(self.destination),
            workspaces=frozenset(self.workspace),
            leads=frozenset(self.lead),
            imports=frozenset(self.imports),
            kinds=frozenset(self.disposition),
            since_ms=ms(self.since) if self.since else None,
            until_ms=min(ends, default=None),
        )


WHICH: Final = Which()


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Audit(Common):
    """The options of a command that the audit log records."""

    why: str
    """the reason, for the audit log; addresses and long numbers are removed"""
    who: Annotated[str | None, Parameter(metavar="NAME")] = None
    """your name in the audit log (default: the login name)"""

    @property
    def name(self) -> str:
        return self.who or login_name()


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class View(Common):
    """The options of a view of lanes."""

    workspace: WorkspaceName = None
    """only this workspace"""
    watch: bool = False
    """refresh every 5 seconds until Ctrl-C"""

    def repeat(self, look: Callable[[], int]) -> int:
        """Show a view once, or with `--watch` until Ctrl-C, and return the last exit code.

        Raises SettingsError for `--watch` with `--json`, which is one document.
        """
        if not self.watch:
            return look()
        if self.json:
            raise SettingsError(["--json prints one document: leave out --watch"])
        out = console()
        code = OK
        try:
            while True:
                if out.is_terminal:
                    out.clear()
                show(time.strftime("%H:%M:%SZ", time.gmtime()))
                code = look()
                time.sleep(_WATCH_EVERY_S)
        except KeyboardInterrupt:
            return code


VIEW: Final = View()


def login_name() -> str:
    """Return the login name; a container may have none."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"


def mapping_of(pairs: tuple[str, ...]) -> dict[str, str]:
    """Parse the pairs of `--map`.

    Raises SettingsError if one has no `=`, or nothing on one side of it.
    """
    split = [pair.partition("=") for pair in pairs]
    if not all(name and value for name, _, value in split):
        raise SettingsError(['--map needs FIELD=COLUMN, such as --map email="E-Mail"'])
    return {name: value for name, _, value in split}


def ms(at: datetime) -> int:
    """Return epoch ms. A time without a zone is UTC, as in Kafka's tools."""
    return int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)


def iso(at_ms: int) -> str:
    """Format epoch ms for people, in UTC.

    A producer may give Kafka a time that no calendar has: it stays a number.
    """
    try:
        return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return f"{at_ms} ms"
