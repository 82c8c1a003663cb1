"""Selects dead letters and counts them by cause and age.

Works on raw headers, and reads a value only to find its import: a million dead letters are counted
in seconds, and memory grows with the number of causes only.
"""

from collections import Counter
from collections.abc import Container, Iterable
from typing import Any, Final, Literal, get_args

import msgspec

from stream_app.domain.delivery.envelope import HEADERS, Disposition, pseudonymous_key
from stream_app.domain.lead.identity import plain_id
from stream_app.domain.lead.read import MAX_IMPORT_ID_CHARACTERS, import_id_in, is_shown
from stream_app.domain.model.numbers import TimeMs, Whole
from stream_app.domain.model.records import parse_record_id, read_number
from stream_app.domain.model.untrusted import decode

LetterKind = Literal["failed", "poison", "policy", "foreign", "deferred"]
"""The disposition. `foreign`: another program wrote it, without headers of ours."""

LetterSource = Literal["dlq", "parked", "deferred"]  # a topic with records that can be sent back

_AGES_S: Final = {"an hour": 3_600, "a day": 86_400, "a week": 604_800}
_HOUR_MS: Final = 3_600_000
_MAX_TEXTS: Final = 50
_MAX_GROUPS: Final = 10_000
_CAUSE: Final = tuple(
    HEADERS[field] for field in ("disposition", "reason", "http_status", "destination")
)
_DISPOSITIONS: Final = frozenset(word.encode() for word in get_args(Disposition) if word)

HeaderValues = dict[str, bytes]


class Filter(msgspec.Struct, frozen=True):
    """Selects dead letters.

    All conditions must hold; an empty one is ignored. Times are epoch ms of the append.

    Attributes:
        reasons: Any of these reason codes.
        statuses: Any of these HTTP statuses.
        destinations: Any of these aliases.
        workspaces: Any of these workspaces.
        leads: Any of these lead ids.
        imports: Leads of any of these imports.
        kinds: Any of these kinds.
        since_ms: Appended then or later.
        until_ms: Appended before.
    """

    reasons: frozenset[str] = frozenset()
    statuses: frozenset[Whole] = frozenset()
    destinations: frozenset[str] = frozenset()
    workspaces: frozenset[str] = frozenset()
    leads: frozenset[str] = frozenset()
    imports: frozenset[str] = frozenset()
    kinds: frozenset[str] = frozenset()
    since_ms: TimeMs | None = None
    until_ms: TimeMs | None = None

    def problems(self) -> list[str]:
        """Return contradictions between the conditions, one line each."""
        if (
            self.since_ms is not None
            and self.until_ms is not None
            and self.since_ms >= self.until_ms
        ):
            return ["nothing is both younger than --since and older than --until or --older-than"]
        if (
            self.statuses
            and self.reasons
            and not self.reasons & {f"http_{status}" for status in self.statuses}
        ):
            return [
                (
                    "--status and --reason contradict each other: the reason of a status is "
                    "http_<status>"
                ),
            ]
        return [
            f"import {name}: an id that is empty, has an @ or is longer than "
            f"{MAX_IMPORT_ID_CHARACTERS} characters names no import; use --lead or --since"
            for name in sorted(self.imports)
            if not is_shown(name)
        ]

    def matches(
        self,
        headers: HeaderValues,
        key: bytes | None,
        value: bytes | None,
        at_ms: int,
    ) -> bool:
        return (
            (self.since_ms is None or at_ms >= self.since_ms)
            and (self.until_ms is None or at_ms < self.until_ms)
            and _in(headers.get(HEADERS["reason"], b""), self.reasons)
            and _in(headers.get(HEADERS["http_status"], b""), self.statuses)
            and _in(headers.get(HEADERS["destination"], b""), self.destinations)
            and _in(key or b"", self.workspaces)
            and _in(headers.get(HEADERS["lead_id"], b""), self.leads)
            and (not self.kinds or kind_of(headers) in self.kinds)
            # The last condition, because it alone reads the value.
            and (not self.imports or import_id_in(value) in self.imports)
        )


def headers_of(pairs: Iterable[tuple[str, bytes | None]]) -> HeaderValues:
    """Return headers by name.

    A header without a value, which other programs may write, is dropped.
    """
    return {name: value for name, value in pairs if value is not None}


def kind_of(headers: HeaderValues) -> LetterKind:
    """Return the kind of a dead letter by its headers."""
    disposition = headers.get(HEADERS["disposition"], b"")
    if disposition in _DISPOSITIONS:
        return disposition.decode()  # type: ignore[return-value]  # one of the words, by the line above
    if headers.get(HEADERS["way"]) == b"deferred" and parse_record_id(
        text(headers, HEADERS["origin"]),
    ):
        return "deferred"
    return "foreign"


class _Named(msgspec.Struct):
    """The names in a value. All other members are skipped."""

    lead_id: Any = None
    workspace: Any = None
    destination: Any = None


_named: Final = msgspec.json.Decoder(_Named)


def addressed_to(headers: HeaderValues, key: bytes | None, value: bytes | None) -> tuple[str, str]:
    """Return workspace and destination of a dead letter that is sent back; '' if it names none.

    The headers decide for a dead letter that continues its own history. The value decides for any
    other, because that starts a new history.
    """
    workspace = (key or b"").decode("utf-8", "replace")
    if kind_of(headers) in ("failed", "deferred"):
        return workspace, text(headers, HEADERS["destination"])
    named = _read(value)
    return _string(named.workspace) or workspace, _string(named.destination)


def lead_id_of(headers: HeaderValues, value: bytes | None) -> str:
    """Return the lead's id as rows have it.

    It is '' if there is none, or if it is derived from the person.
    """
    if lead_id := text(headers, HEADERS["lead_id"]):
        return lead_id
    given = _string(_read(value).lead_id).strip()
    return plain_id(given) if given else ""


def _read(value: bytes | None) -> _Named:
    try:
        return decode(_named, value)
    except ValueError:
        return _Named()


def _string(value: Any) -> str:
    return value if isinstance(value, str) else ""


def text(headers: HeaderValues, name: str) -> str:
    """Return a header as text; '' if it is missing."""
    return headers.get(name, b"").decode("utf-8", "replace")


def shown_key(headers: HeaderValues, key: bytes | None, workspaces: Container[str]) -> bytes | None:
    """Return the key of a dead letter as people see it, which shows no person."""
    return pseudonymous_key(key, workspaces, text(headers, HEADERS["reason"]))


def number(headers: HeaderValues, name: str) -> int:
    """Return a header as a number; 0 if it is not one."""
    return read_number(text(headers, name))


def _in(value: bytes, wanted: frozenset[str] | frozenset[int]) -> bool:
    return not wanted or value.decode("utf-8", "replace") in {str(allowed) for allowed in wanted}


class CauseGroup(msgspec.Struct):
    """Dead letters of one cause. Times are epoch ms."""

    kind: str
    reason: str
    http_status: str  # Clay's status; '' if there was none
    workspace: str
    destination: str
    count: int = 0
    first_ms: int = 0  # when the first was appended
    last_ms: int = 0  # when the last was appended
    last_hour: int = 0  # how many were appended in the last hour
    hour_before: int = 0  # how many were appended in the hour before
    texts: Counter[str] = msgspec.field(default_factory=Counter)  # how often each text occurs

    @property
    def trend(self) -> str:
        """`rising`, `falling` or `steady`."""
        if self.last_hour == self.hour_before:
            return "steady"
        return "rising" if self.last_hour > self.hour_before else "falling"


class DeadLetterTally:
    """Counts dead letters by cause and age as they are read."""

    def __init__(self, now_ms: int) -> None:
        self.count = 0
        # Those of people on the suppression list; the caller counts them, as it reads values.
        self.suppressed = 0
        self.groups: dict[tuple[bytes, ...], CauseGroup] = {}
        self.ages: Counter[str] = Counter()
        self._now_ms = now_ms

    def add(self, headers: HeaderValues, key: bytes | None, at_ms: int) -> None:
        disposition, reason, status, destination = (headers.get(name, b"") for name in _CAUSE)
        cause = (disposition, reason, status, key or b"", destination)
        group = self.groups.get(cause) or self._new(cause, headers)
        self.count += 1
        group.count += 1
        group.first_ms = min(group.first_ms or at_ms, at_ms)
        group.last_ms = max(group.last_ms, at_ms)
        age_ms = self._now_ms - at_ms
        if age_ms < _HOUR_MS:
            group.last_hour += 1
        elif age_ms < 2 * _HOUR_MS:
            group.hour_before += 1
        limit = next(
            (f"under {name}" for name, age_s in _AGES_S.items() if age_ms < age_s * 1000),
            "over a week",
        )
        self.ages[limit] += 1
        words = text(headers, HEADERS["text"])
        group.texts[
            words if words in group.texts or len(group.texts) < _MAX_TEXTS else "(others)"
        ] += 1

    def sorted(self) -> list[CauseGroup]:
        """Return the groups, the largest first."""
        return sorted(self.groups.values(), key=lambda group: -group.count)

    def _new(self, cause: tuple[bytes, ...], headers: HeaderValues) -> CauseGroup:
        # Other programs may write any number of keys and reasons.
        if len(self.groups) >= _MAX_GROUPS:
            cause = (b"", b"(others)", b"", b"", b"")
            if cause in self.groups:
                return self.groups[cause]
        _, reason, status, workspace, destination = (
            word.decode("utf-8", "replace")[:100] for word in cause
        )
        group = CauseGroup(
            kind_of(headers),
            reason,
            status,
            workspace,
            destination,
        )
        self.groups[cause] = group
        return group
