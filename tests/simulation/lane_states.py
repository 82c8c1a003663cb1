"""What every place says of a lane, compared with its row, also hours after its last lead.

The row says in how much trouble a lane is, and since when. That is read from it here once more,
without the code that makes a view: the state that is told must be one of these troubles, and the
same in each place. Where only some leads of a lane are held, such as those of one destination that
fails alone, the lane runs: each place must tell that part as a part, and none as the whole lane.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec
from prometheus_client import CollectorRegistry

from stream_app.board.access import STRANGER
from stream_app.board.notify import alert_of
from stream_app.board.read_model.board_query import BoardQueries
from stream_app.board.read_model.follow import ProjectionLag
from stream_app.board.site import Moment, Site, overview
from stream_app.cli.lane_tables import lane_tables
from stream_app.config import Kafka, Settings
from stream_app.domain.lane.holds import PROBE_DUE, reason_of
from stream_app.domain.lane.lane import Lane
from stream_app.domain.limits import budget
from stream_app.domain.model.records import ConsumedRecord
from stream_app.domain.plan import Destination, Plan, Workspace, in_force
from stream_app.domain.views.explain import (
    HELD_IN_PART,
    LANE_HELD,
    ConsumerGroup,
    Facts,
    Finding,
    LaneFacts,
    explain,
)
from stream_app.domain.views.lane import LaneView
from stream_app.kafka.groups import Consumption
from stream_app.ops import logs
from stream_app.ops.lane_metrics import LaneMetrics

Logs = Mapping[tuple[str, int], Sequence[ConsumedRecord]]
"""What is committed, by topic and partition."""
LATER_MS: Final = (0, 90_000, 3_600_000, 3 * 86_400_000)
"""Nothing waits after a run: the times of probes pass, and no lead goes."""
UP: Final = ConsumerGroup("Stable", 1)


_OF_A_PART: Final = ("leads of ", "bulk leads of ")
"""How a finding begins that holds only some leads of its lane."""
_GOES_AS_PROBE: Final = "goes as a probe"
"""How the words of a hold end, of a lane or of a part, whose next lead goes as a probe."""
_IN_PART: Final = re.compile(r"\((\w+)\)")
"""The reason of a part of a lane that is held, in `stream-app lanes`."""


class Said(msgspec.Struct, frozen=True):
    """One hold of a lane in one place. None: the place does not say it.

    `is_part`: it holds only some leads of the lane.
    """

    code: str
    probe_due: bool | None = None
    since_ms: int | None = None
    is_part: bool = False

    def agrees(self, told: "Said") -> bool:
        """Return True if `told`, which says everything, is the same hold."""
        return (
            (self.code, self.is_part) == (told.code, told.is_part)
            and self.probe_due in (None, told.probe_due)
            and self.since_ms in (None, told.since_ms)
        )


Holds = tuple[Said, ...]
"""Every hold of a lane that a place tells, that of the whole lane first; empty if it runs."""


class Trouble(msgspec.Struct, frozen=True):
    """What may hold a lane. None: its row does not say since when, or whether a probe is due."""

    since_ms: int | None = None
    probe_due: bool | None = False


# ------------------------------------------------------------------------------------- what is true


def rows_of(plan: Plan, logs: Logs) -> dict[str, Lane]:
    """The last row of each lane."""
    rows: dict[str, Lane] = {}
    for number in range(plan.partitions):
        for record in logs.get((plan.topics.state, number), []):
            if (record.key or b"").startswith(b"l/") and record.value:
                lane = msgspec.json.decode(record.value, type=Lane)
                rows[lane.workspace] = lane
    return rows


def troubles_of(
    policy: Workspace,
    lane: Lane,
    place: Destination,
    now_ms: int,
) -> dict[str, Trouble]:
    """Everything that may hold the only destination of a lane, by its code."""
    policy = in_force(policy, lane.changes)
    troubles: dict[str, Trouble] = {}
    if lane.pause is not None:
        troubles["paused"] = Trouble(lane.pause.at_ms)
    if lane.forced is not None and lane.forced.mode == "open":
        troubles["forced_open"] = Trouble(lane.forced.by.at_ms)
    pool = [lane.quota.webhooks.get(name) for name in place.webhook_ids]
    usable = [
        hook
        for hook in pool
        if hook is None or (not hook.dead and hook.count < policy.limits(place).rotate_at)
    ]
    out = [hook.suspension for hook in usable if hook is not None and hook.suspension is not None]
    if not usable:
        troubles["no_webhook"] = Trouble()
    elif len(out) == len(usable):
        dues = [max(stopped.probe_at_ms, stopped.lease_until_ms) for stopped in out]
        troubles["webhook_out"] = Trouble(
            min(stopped.since_ms for stopped in out),
            min(dues) <= now_ms,
        )
    stopped = lane.suspension
    if stopped is not None:
        is_due = max(stopped.probe_at_ms, stopped.lease_until_ms) <= now_ms
        troubles[stopped.reason] = Trouble(stopped.since_ms, is_due)
    mode = lane.forced.mode if lane.forced is not None else policy.breaker.mode
    if lane.breaker.phase != "closed" and mode == "auto":
        lease = lane.breaker.lease
        due_ms = (
            lane.breaker.until_ms
            if lane.breaker.phase == "open"
            else lease.expires_at_ms
            if lease
            else 0
        )
        began_ms = lane.breaker.outage_ms
        if lane.outage is not None and lane.breaker.cause in (
            "consecutive_failures",
            "failure_rate",
            "probe_failed",
        ):
            began_ms = lane.outage.since_ms
        troubles["breaker_open"] = Trouble(began_ms, due_ms <= now_ms)
    reserved = budget.reserve(policy.budget, lane.budget, place.ceiling, now_ms)
    if isinstance(reserved, budget.BudgetRefused):
        # Its refusal keeps the probes of the others back, too.
        troubles = {
            code: msgspec.structs.replace(trouble, probe_due=None)
            for code, trouble in troubles.items()
        }
        troubles[f"budget_{reserved.reason}"] = Trouble()
    if lane.rate.blocked_until_ms > now_ms:
        troubles = {
            code: msgspec.structs.replace(trouble, probe_due=None)
            for code, trouble in troubles.items()
        }
        troubles["rate_limited"] = Trouble()
    return troubles


def _is_true(state: Said | None, troubles: dict[str, Trouble]) -> bool:
    if state is None:
        return not troubles
    trouble = troubles.get(state.code)
    if trouble is None:
        return False
    is_since = trouble.since_ms in (None, state.since_ms)
    return is_since and (trouble.probe_due is None or trouble.probe_due == state.probe_due)


# ------------------------------------------------------------------------------------- what is said


def views_of(plan: Plan, logs: Logs) -> dict[str, LaneView]:
    """The last published view of each lane."""
    views: dict[str, LaneView] = {}
    for number in range(plan.partitions):
        for record in logs.get((plan.topics.lanes, number), []):
            if record.value:
                view = msgspec.json.decode(record.value, type=LaneView)
                views[view.workspace] = view
    return views


def said_in(
    plan: Plan,
    path: Path,
    views: dict[str, LaneView],
    now_ms: int,
) -> Iterator[tuple[str, str, Holds]]:
    """Yield place, workspace and holds of each lane. `path`: of the read model."""
    site = Site(settings_of(plan), BoardQueries(path, set()))
    for view in site.queries.lanes(now_ms)[0]:
        yield "API", view.workspace, _of_view(view)
    shown = overview(site, Moment(now_ms, ProjectionLag(now_ms), Consumption(UP, UP, {}), STRANGER))
    for lane in shown.lanes:
        if lane.view is not None:
            yield "board", lane.workspace, _of_findings(lane.findings)
            holds = _of_view(lane.view)
            state = HELD_IN_PART if holds and holds[0].is_part else LANE_HELD
            yield "board's word", lane.workspace, holds if lane.state == state else ()
    facts = [LaneFacts(name, view.partition, view, {}) for name, view in views.items()]
    findings = explain(Facts(now_ms, UP, UP, facts))
    for name in views:
        of_lane = [finding for finding in findings if finding.workspace == name]
        yield "explain", name, _of_findings(of_lane)
        yield "message", name, _of_alerts(of_lane, now_ms)
    for name, words, *_ in lane_tables(facts, {}, {}, now_ms)[0].rows:
        code = words.split()[0].rstrip(",;")
        parts = tuple(Said(part, is_part=True) for part in _IN_PART.findall(words))
        runs = code == "running" or words.startswith(HELD_IN_PART)
        yield "lanes", name, parts if runs else (Said(code, PROBE_DUE in words),)
    registry = CollectorRegistry()
    metrics = LaneMetrics(registry, logs.get("simulation"), lambda: now_ms)
    for view in views.values():
        metrics.show(msgspec.structs.replace(view, news=()))
    (family,) = [family for family in registry.collect() if family.name == "stream_app_lane_holds"]
    held = {
        sample.labels["workspace"]: sample.labels["reason"]
        for sample in family.samples
        if sample.value
    }
    for name in views:
        yield "metrics", name, (Said(held[name]),) if name in held else ()


def settings_of(plan: Plan) -> Settings:
    """What the board reads of the configuration."""
    pinned = {
        name: msgspec.structs.replace(policy, partition=plan.home_of(name))
        for name, policy in plan.workspaces.items()
    }
    return Settings(
        kafka=Kafka(partitions=plan.partitions),
        workspaces=pinned,
        destinations=dict(plan.destinations),
    )


def _of_view(view: LaneView) -> Holds:
    whole = (Said(view.holds, view.probe_due, view.since_ms),) if view.holds else ()
    parts = (Said(part.holds, part.probe_due, part.since_ms, is_part=True) for part in view.partly)
    return (*whole, *parts)


def _of_findings(findings: list[Finding]) -> Holds:
    return tuple(
        Said(
            finding.code,
            finding.what.endswith(_GOES_AS_PROBE),
            finding.since_ms,
            is_part=finding.what.startswith(_OF_A_PART),
        )
        for finding in findings
        if finding.holds
    )


def _of_alerts(findings: list[Finding], now_ms: int) -> Holds:
    return tuple(
        Said(
            finding.code,
            since_ms=alert.since_ms,
            is_part=finding.what.startswith(_OF_A_PART),
        )
        for finding in findings
        if finding.holds and (alert := alert_of(finding, now_ms)) is not None
    )


def _told_in(place: str, holds: Holds) -> Holds:
    """Return those holds of a lane that a place has to tell."""
    match place:
        case "metrics":  # of the whole lane
            return tuple(hold for hold in holds if not hold.is_part)
        case "lanes":  # the parts of a lane that runs
            return holds if not holds or holds[0].is_part else holds[:1]
        case "message":  # what needs a person
            return tuple(hold for hold in holds if reason_of(hold.code).alarm)
        case _:
            return holds


# ----------------------------------------------------------------------------------- the difference


def wrong_states(
    plan: Plan,
    logs: Logs,
    path: Path,
    now_ms: int,
    met: Counter[str],
    *,
    is_at_rest: bool,
) -> list[str]:
    """Return what is told wrongly of lanes at a time, epoch ms. Counts in `met` what was compared.

    `path`: of a read model that has read `logs`. `is_at_rest`: nothing moves any more, so the last
    view that was published is that of the last row.
    """
    views = views_of(plan, logs)
    rows = rows_of(plan, logs)
    wrong: list[str] = []
    said_of: dict[str, dict[str, Holds]] = {}
    for place, name, holds in said_in(plan, path, views, now_ms):
        said_of.setdefault(name, {})[place] = holds
    for name, by_place in said_of.items():
        api = by_place["API"]
        for place, holds in by_place.items():
            told = _told_in(place, api)
            same = len(holds) == len(told) and all(map(Said.agrees, holds, told))
            if not same:
                wrong.append(f"{name}: {place} says {holds}, the API {told}")
        whole = next((hold for hold in api if not hold.is_part), None)
        destinations = plan.destinations_of(name)
        # Where a lane has several destinations, one may be held alone, and `troubles_of` knows the
        # row of a lane with one. The places were compared with each other above.
        if is_at_rest and len(destinations) == 1:
            troubles = troubles_of(plan.workspaces[name], rows[name], destinations[0], now_ms)
            if not _is_true(whole, troubles):
                wrong.append(f"{name}: the API says {whole}, its row {troubles}")
        for hold in (whole or Said("runs"), *(hold for hold in api if hold.is_part)):
            due = ", probe due" if hold.probe_due else ""
            met[f"lane {'in part ' if hold.is_part else ''}{hold.code}{due}"] += 1
    return wrong
