"""The rules of workspaces: their names, the ranges of their policies, and consistency with other tables."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from zoneinfo import ZoneInfo

from stream_app.config.model import Tables, Workspace, WorkspaceDefaults
from stream_app.domain.lane import breaker, budget, callback_health, concurrency, flood_guard, rate, suspension
from stream_app.domain.lane import health as window
from stream_app.domain.lane import webhook_quota as quota
from stream_app.domain.lane.concurrency import ConcurrencyPolicy

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


def problems(tables: Tables) -> Iterator[str]:
    """Yield one line for each error in `[workspaces.*]`. An error of `[workspace_defaults]` appears once."""
    inherited = set(_policies(tables, tables.workspace_defaults))
    found: dict[str, None] = {}
    for name, workspace in tables.workspaces.items():
        place = f"workspaces.{name}"
        lines = [f"{place}{line}" for line in (*_place(tables, name, workspace), *_never(tables, name, workspace))]
        lines += (
            f"{'workspace_defaults' if line in inherited else place}{line}" for line in _policies(tables, workspace)
        )
        found.update(dict.fromkeys(lines))
    yield from found
    yield from _strangers(tables)


def _strangers(tables: Tables) -> Iterator[str]:
    """Workspaces of destinations that have no table, and tables that no destination names.

    Either may be a misspelt name, and then the policies of the table, such as its budget, would not apply.
    """
    named, suggested = {there.workspace for there in tables.destinations.values()}, set[str]()
    for alias, there in tables.destinations.items():
        if there.workspace not in tables.workspaces:
            near = difflib.get_close_matches(there.workspace, tables.workspaces.keys() - named, n=1)
            suggested.update(near)
            hint = f"did you mean {near[0]}?" if near else "add it, an empty one will do"
            place = f"destinations.{alias}.workspace = {there.workspace}"
            yield f"{place}: there is no [workspaces.{there.workspace}]; {hint}"
    for name in tables.workspaces:
        if name not in named | suggested:
            near = difflib.get_close_matches(name, named, n=1)
            hint = f"did you mean {near[0]}?" if near else "remove it, or add its destination"
            yield f"workspaces.{name}: no destination names this workspace, so the table has no effect; {hint}"


def _place(tables: Tables, name: str, workspace: Workspace) -> Iterator[str]:
    if not _NAME.fullmatch(name):
        yield ": a workspace's name is 1 to 64 of A-Z a-z 0-9 . _ -"
    pin, partitions = workspace.partition, tables.kafka.partitions
    if pin is not None and not 0 <= pin < partitions:
        yield f".partition = {pin}: must be from 0 to {partitions - 1} (kafka.partitions = {partitions})"
    default = workspace.default_destination
    if default is not None:
        there = tables.destinations.get(default)
        if there is None:
            yield f".default_destination = {default}: there is no [destinations.{default}]"
        elif there.workspace != name:
            yield f".default_destination = {default}: it belongs to workspace {there.workspace}"


def _policies(tables: Tables, workspace: WorkspaceDefaults) -> Iterator[str]:
    try:
        ZoneInfo(workspace.time_zone)
    except (OSError, ValueError, KeyError):
        yield f".time_zone = {workspace.time_zone!r}: no such time zone; use a name like 'Europe/Berlin'"
    if workspace.budget.tz != "UTC":
        yield ".budget.tz: the workspace's time_zone sets it; remove it"
    for table, lines in (
        ("breaker", breaker.problems(workspace.breaker)),
        ("window", window.problems(workspace.window)),
        ("health", window.problems(workspace.health)),
        ("rate", rate.problems(workspace.rate)),
        ("budget", budget.problems(workspace.budget)),
        ("quota", quota.problems(workspace.quota)),
        ("suspension", suspension.problems(workspace.suspension)),
        ("flood_guard", flood_guard.problems(workspace.flood_guard)),
        ("callback_health", callback_health.problems(workspace.callback_health)),
        ("concurrency", concurrency.problems(workspace.concurrency)),
    ):
        yield from (f".{table}.{line}" for line in lines)
    longest_s = tables.line.max_request_start_age_s + tables.line.request_timeout_s
    for table, lease_s in (
        ("breaker", workspace.breaker.probe_lease_s),
        ("suspension", workspace.suspension.probe_lease_s),
    ):
        if lease_s <= longest_s:
            yield (
                f".{table}.probe_lease_s: must be above line.max_request_start_age_s + request_timeout_s = "
                f"{longest_s:g} s, or a probe in progress counts as lost"
            )
    if workspace.concurrency.most != ConcurrencyPolicy().most:
        yield ".concurrency.most: line.max_in_flight sets it; remove it"


def _never(tables: Tables, name: str, workspace: Workspace) -> Iterator[str]:
    """Contradictions by which no lead could ever be sent."""
    rules = workspace.budget
    if budget.problems(rules):
        return
    for alias, there in tables.destinations.items():
        if there.workspace != name or rules.shadow:
            continue
        for key in budget.CAPS:
            cap, ceiling = getattr(rules, key), f"ceiling_{key.partition('_')[0]}"
            most = getattr(there, ceiling)
            if cap is not None and most > cap:
                yield f".budget.{key} = {cap}: below destinations.{alias}.{ceiling} = {most}: no lead could be sent"
            elif cap is not None and most > (bulk := budget.bulk_part(cap, rules.hot_share)):
                yield (
                    f".budget.hot_share = {rules.hot_share:g}: leaves bulk {bulk} of {key}, "
                    f"less than destinations.{alias}.{ceiling} = {most}: no bulk lead could be sent"
                )
