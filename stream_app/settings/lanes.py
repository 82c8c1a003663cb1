"""The rules of a workspace's table: ranges of its lane's policies, and what must hold between them and other tables."""

from __future__ import annotations

import re
from collections.abc import Iterator
from zoneinfo import ZoneInfo

from stream_app.core import breaker, budget, concurrency, flood, quota, rate, silence, stop, window
from stream_app.core.concurrency import ConcurrencyPolicy
from stream_app.settings.model import Tables, Workspace

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


def problems(tables: Tables, name: str, workspace: Workspace) -> Iterator[str]:
    """What is wrong with the table `[workspaces.<name>]`, one line each; a line begins behind the name."""
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
    try:
        ZoneInfo(workspace.time_zone)
    except (OSError, ValueError, KeyError):
        yield f".time_zone = {workspace.time_zone!r}: no such time zone; use a name like 'Europe/Berlin'"
    if workspace.budget.tz != "UTC":
        yield ".budget.tz: is set by the workspace's time_zone"
    for table, lines in (
        ("breaker", breaker.problems(workspace.breaker)),
        ("window", window.problems(workspace.window)),
        ("rate", rate.problems(workspace.rate)),
        ("budget", budget.problems(workspace.budget)),
        ("quota", quota.problems(workspace.quota)),
        ("stop", stop.problems(workspace.stop)),
        ("flood", flood.problems(workspace.flood)),
        ("silence", silence.problems(workspace.silence)),
        ("concurrency", concurrency.problems(workspace.concurrency)),
    ):
        yield from (f".{table}.{line}" for line in lines)
    longest_s = tables.line.max_request_start_age_s + tables.line.request_timeout_s
    for table, lease_s in (("breaker", workspace.breaker.probe_lease_s), ("stop", workspace.stop.probe_lease_s)):
        if lease_s <= longest_s:
            yield (
                f".{table}.probe_lease_s: must be above line.max_request_start_age_s + request_timeout_s = "
                f"{longest_s:g} s, or a probe under way is taken for lost"
            )
    if workspace.concurrency.most != ConcurrencyPolicy().most:
        yield ".concurrency.most: is set by line.max_in_flight"
    if not budget.problems(workspace.budget):
        yield from _never(tables, name, workspace)


def _never(tables: Tables, name: str, workspace: Workspace) -> Iterator[str]:
    """What contradicts itself so that nothing could ever be sent."""
    rules = workspace.budget
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
