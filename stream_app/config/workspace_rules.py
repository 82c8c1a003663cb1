"""The rules of workspaces: their names, also as a user types them, the ranges of policies, consistency of tables."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Iterator
from typing import Final
from zoneinfo import ZoneInfo

from stream_app.config.model import Settings
from stream_app.domain.limits import budget
from stream_app.domain.model.errors import SettingsError
from stream_app.domain.plan import Destination, Workspace

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_LISTED: Final = 50
_POLICIES: Final = (*("breaker", "rate", "budget", "quota", "suspension", "flood_guard", "callback_health"),)
_HINTS: Final = 10  # each costs a comparison with every name


def problems(settings: Settings) -> Iterator[str]:
    """Yield one line for each error in `[workspaces.*]`. An error of `[workspace_defaults]` appears once."""
    defaults = settings.workspace_defaults
    inherited = list(_policies(settings, defaults, None))
    for name, workspace in settings.workspaces.items():
        place = f"workspaces.{name}"
        for line in (*_place(settings, name, workspace), *_never(settings, name, workspace)):
            yield f"{place}{line}"
        for line in _policies(settings, workspace, defaults):
            if line not in inherited:
                yield f"{place}{line}"
    if settings.workspaces:
        yield from (f"workspace_defaults{line}" for line in inherited)
    yield from _strangers(settings)


def _strangers(settings: Settings) -> Iterator[str]:
    """Workspaces of destinations that have no table, and tables that no destination names.

    Either may be a misspelt name, and then the policies of the table, such as its budget, would not apply.
    """
    workspaces = settings.workspaces
    named, suggested = {destination.workspace for destination in settings.destinations.values()}, set[str]()
    idle = workspaces.keys() - named
    hints = 0

    def near(name: str, others: Iterable[str]) -> list[str]:
        nonlocal hints
        hints += 1
        return difflib.get_close_matches(name, others, n=1) if hints <= _HINTS else []

    for alias, destination in settings.destinations.items():
        if destination.workspace not in workspaces:
            close = near(destination.workspace, idle)
            suggested.update(close)
            hint = f"did you mean {close[0]}?" if close else "add it, an empty one will do"
            place = f"destinations.{alias}.workspace = {destination.workspace}"
            yield f"{place}: there is no [workspaces.{destination.workspace}]; {hint}"
    for name in workspaces:
        if name in idle - suggested:
            close = near(name, named)
            hint = f"did you mean {close[0]}?" if close else "remove it, or add its destination"
            yield f"workspaces.{name}: no destination names this workspace, so the table has no effect; {hint}"


def _place(settings: Settings, name: str, workspace: Workspace) -> Iterator[str]:
    if not _NAME.fullmatch(name):
        yield ": a workspace's name is 1 to 64 of A-Z a-z 0-9 . _ -"
    pin, partitions = workspace.partition, settings.kafka.partitions
    if pin is not None and not 0 <= pin < partitions:
        yield f".partition = {pin}: must be from 0 to {partitions - 1} (kafka.partitions = {partitions})"
    if default := workspace.default_destination:
        destination = settings.destinations.get(default)
        if destination is None:
            yield f".default_destination = {default}: there is no [destinations.{default}]"
        elif destination.workspace != name:
            yield f".default_destination = {default}: it belongs to workspace {destination.workspace}"


def _policies(settings: Settings, workspace: Workspace, checked: Workspace | None) -> Iterator[str]:
    """The errors of a workspace's policies, except in those that it shares with a workspace that was checked."""

    def is_new(table: str) -> bool:
        return checked is None or getattr(workspace, table) is not getattr(checked, table)

    if is_new("time_zone"):
        try:
            ZoneInfo(workspace.time_zone)
        except (OSError, ValueError, KeyError):
            yield f".time_zone = {workspace.time_zone!r}: no such time zone; use a name like 'Europe/Berlin'"
    for table in _POLICIES:
        if is_new(table):
            yield from (f".{table}.{line}" for line in getattr(workspace, table).problems())
    longest_s = settings.delivery.longest_s
    for table in ("breaker", "suspension"):
        if is_new(table) and getattr(workspace, table).probe_lease_s <= longest_s:
            yield (
                f".{table}.probe_lease_s: must be above delivery.max_request_start_age_s + request_timeout_s = "
                f"{longest_s:g} s, or a probe in progress counts as lost"
            )


def _never(settings: Settings, name: str, workspace: Workspace) -> Iterator[str]:
    """Contradictions by which no lead could ever be sent."""
    rules = workspace.budget
    caps = [(key, cap) for key in budget.CAPS if (cap := getattr(rules, key)) is not None]
    if not caps or rules.shadow or rules.problems():
        return
    for destination in settings.plan.destinations_of(name):
        for key, cap in caps:
            yield from _too_low(destination, key, cap, rules.hot_share)


def _too_low(destination: Destination, key: str, cap: int, hot_share: float) -> Iterator[str]:
    ceiling = f"ceiling_{key.partition('_')[0]}"
    most = getattr(destination, ceiling)
    place = f"destinations.{destination.alias}.{ceiling} = {most}"
    if most > cap:
        yield f".budget.{key} = {cap}: below {place}: no lead could be sent"
    elif most > (bulk := budget.bulk_part(cap, hot_share)):
        yield (
            f".budget.hot_share = {hot_share:g}: leaves bulk {bulk} of {key}, less than {place}: "
            "no bulk lead could be sent"
        )


def unknown(settings: Settings, workspaces: Iterable[str], destinations: Iterable[str]) -> list[str]:
    """Return one line for each unknown name, with the names that exist."""
    return [
        f"there is no {word} {name} in the configuration; {_hint(name, known)}"
        for word, asked, known in (
            ("workspace", workspaces, settings.workspaces),
            ("destination", destinations, settings.destinations),
        )
        for name in sorted(asked)
        if name not in known
    ]


def _hint(name: str, known: Collection[str]) -> str:
    if len(known) <= _LISTED:
        return f"there are: {', '.join(known) or 'none'}"
    near = difflib.get_close_matches(name, known, n=3)
    return f"did you mean {' or '.join(near)}?" if near else f"there are {len(known):,} others"


def check_known(settings: Settings, *, workspace: str | None = None, destination: str | None = None) -> None:
    """Raise SettingsError for an unknown name."""
    asked = ([name] if name is not None else [] for name in (workspace, destination))
    if strangers := unknown(settings, *asked):
        raise SettingsError(strangers)
