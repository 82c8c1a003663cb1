"""Explains why leads do not move: each cause, what lifts it, and how many leads wait behind it."""

import math
from collections.abc import Container, Iterable, Iterator
from typing import Final

import msgspec

from stream_app.domain.lane.holds import WEBHOOK_OUT, ends_by_probe, lifts, remains
from stream_app.domain.limits import yield_health
from stream_app.domain.limits.budget import MeterName
from stream_app.domain.limits.meters import Forecast
from stream_app.domain.model.text import count, rate_text
from stream_app.domain.model.topics import TopicNames
from stream_app.domain.plan import Actor
from stream_app.domain.views.lane import LaneView, PartHold
from stream_app.domain.views.waits import RESUME_REPLAYS, replays_paused

VIEW_UNREADABLE: Final = "its last state on leads.lanes cannot be read by this version"
"""What is said of a lane whose last record has no state that this version knows."""

LANE_HELD: Final = "held"
"""What is said of a lane none of whose leads moves."""
HELD_IN_PART: Final = "held in part"
"""What is said of a lane of which only some leads are held, such as those of one destination."""

_OF_REPLAYS: Final = frozenset({"replay_paused", "no_replay"})
_PERIODS_S: Final = {"day": 86_400, "month": 30 * 86_400}
_BULK: Final = TopicNames().bulk
_WRITTEN_WITHIN_MS: Final = 120_000
"""Within this time, the owner of a lane with open runs has written its view again, as it does once
a minute.
"""


class Outlook(msgspec.Struct, frozen=True):
    """What becomes of a budget."""

    says: str  # in words, which the time `at_ms` follows
    at_ms: int  # epoch ms
    is_short: bool = True  # it does not last until its day or month ends
    is_full: bool = False  # nothing more is sent now, at least of some leads
    why: str = ""  # what admission says to the leads that are not sent


class ConsumerGroup(msgspec.Struct, frozen=True):
    """A consumer group: its state as Kafka calls it, and its members."""

    state: str
    members: int


class LaneFacts(msgspec.Struct, frozen=True):
    """What was seen of one workspace."""

    workspace: str
    partition: int  # the partition that it lives in
    view: LaneView | None  # the last published state of the lane
    waiting: dict[str, int]  # records that wait in that partition, by topic
    shared_with: tuple[str, ...] = ()  # other workspaces in that partition; the first few
    asked: int = 0  # commands without an answer
    unreadable: str = ""  # the batch before which the partition has stopped, in words
    shared_with_more: int = 0  # how many others there are besides
    # When the oldest record that waits in that partition came, epoch ms; 0 if unknown.
    oldest_ms: int = 0
    view_unreadable: bool = False  # its last published state cannot be read, so that `view` is None
    at_most: bool = False  # fewer records may wait there than `waiting` says

    @property
    def is_shared(self) -> bool:
        """Other workspaces live in its partition, too, so what waits there may be theirs."""
        return bool(self.shared_with or self.shared_with_more)

    @property
    def neighbours(self) -> str:
        """The other workspaces in its partition, in words; '' without any."""
        more = f" and {self.shared_with_more:,} more" if self.shared_with_more else ""
        return f"{', '.join(self.shared_with)}{more}"


class Facts(msgspec.Struct, frozen=True):
    """What was seen.

    `coming_back`: records on their way back (dead letters, deferred, in a delay); with `at_most` an
        upper bound.
    """

    at_ms: int
    worker: ConsumerGroup
    replay: ConsumerGroup
    lanes: list[LaneFacts]
    coming_back: int = 0
    replay_paused: Actor | None = None
    topics: list[str] = []
    at_most: bool = False


class Finding(msgspec.Struct, frozen=True, omit_defaults=True):
    """One cause.

    Attributes:
        code: A stable code.
        what: The cause in words.
        workspace: The workspace that it concerns; '' for all.
        holds: True if it stops the leads that it concerns.
        since_ms: Since when, epoch ms; 0 if unknown.
        until_ms: Until when, epoch ms; 0 if no time ends it. With `until_probe` it is when the next
            probe goes, which ends the hold if it succeeds.
        until_probe: True if a probe ends it.
        lifts: What ends it.
        waiting: Records behind it; with `at_most` an upper bound.
        in_partition: They are those of its partition, where other workspaces live, too.
        oldest_ms: When the oldest of them came, epoch ms; 0 if unknown.
        poll_ms: When the next run of the lane is polled, epoch ms; 0 if none is or if it is due.
        destinations: The destinations whose leads it holds, while others of the lane move; none:
            it holds the whole lane.
        columns: The columns whose yield fell, each as its destination and its name. Then `what` has
            only names of the configuration and numbers.
    """

    code: str
    what: str
    workspace: str = ""
    holds: bool = True
    since_ms: int = 0
    until_ms: int = 0
    until_probe: bool = False
    lifts: str = ""
    waiting: int = 0
    at_most: bool = False
    in_partition: bool = False
    oldest_ms: int = 0
    poll_ms: int = 0
    destinations: tuple[str, ...] = ()
    columns: tuple[tuple[str, str], ...] = ()

    @property
    def is_about_replays(self) -> bool:
        """True if it concerns only what the replay process brings back: lanes go on sending."""
        return self.code in _OF_REPLAYS

    @property
    def subject(self) -> str:
        """What it concerns, in words: its workspace, or all lanes, or all replays."""
        return self.workspace or ("All replays" if self.is_about_replays else "All lanes")

    @property
    def state(self) -> str:
        """What it makes of its lane: `held`, or `held in part`; '' if it holds nothing."""
        if not self.holds:
            return ""
        return HELD_IN_PART if self.destinations else LANE_HELD


def held_text(findings: Iterable[Finding], lanes: str) -> str:
    """Say how many lanes are held, and how many of the others are held in part; '' if none is.

    Args:
        findings: Those of all lanes.
        lanes: How many lanes there are, in words.
    """
    holds = [finding for finding in findings if finding.holds]
    whole = {finding.workspace for finding in holds if not finding.destinations}
    some = {finding.workspace for finding in holds} - whole
    first, state = named_first(len(whole), len(some))
    if not first:
        return ""
    more = f", {len(some)} more in part" if whole and some else ""
    return f"{first} of {lanes} {'is' if first == 1 else 'are'} {state}{more}"


def named_first(whole: int, part: int) -> tuple[int, str]:
    """Return which held lanes a text names first: how many they are, and what they are called.

    Lanes that are held in part come first only if no lane is held as a whole.
    """
    return (whole, LANE_HELD) if whole else (part, HELD_IN_PART)


def explain(facts: Facts) -> list[Finding]:
    """Return everything that holds leads, global causes first.

    Then follow the lanes that move, with what waits for them.
    """
    of_lanes = (
        _with_backlog(finding, lane) for lane in facts.lanes for finding in _of_lane(lane, facts)
    )
    return [*_of_all(facts), *of_lanes]


def _with_backlog(finding: Finding, lane: LaneFacts) -> Finding:
    """Say whose records wait behind a finding, and since when, as far as it is known."""
    if not finding.waiting or finding.code == "commands_wait":
        return finding
    oldest_ms = lane.oldest_ms if finding.waiting == _behind(lane) else 0
    return msgspec.structs.replace(
        finding,
        at_most=lane.at_most or bool(finding.destinations),  # Others of the lane wait there, too.
        in_partition=lane.is_shared,
        oldest_ms=oldest_ms,
    )


def _of_all(facts: Facts) -> Iterator[Finding]:
    waiting = sum({lane.partition: _behind(lane) for lane in facts.lanes}.values())
    at_most = any(lane.at_most for lane in facts.lanes)
    if facts.topics:
        what = "; ".join(facts.topics)
        yield Finding(
            "wrong_topics",
            what,
            lifts="stream-app topics",
            waiting=waiting,
            at_most=at_most,
        )
    if not facts.worker.members:
        what = "no worker runs: nothing is sent"
        yield Finding(
            "no_worker",
            what,
            lifts="stream-app worker",
            waiting=waiting,
            at_most=at_most,
        )
    elif facts.worker.state != "Stable":
        what = f"the workers' group is {facts.worker.state}: partitions are being handed over"
        soon = "it ends within kafka.rebalance_timeout_s"
        yield Finding("rebalancing", what, lifts=soon, waiting=waiting, at_most=at_most)
    back = facts.coming_back
    at_most = facts.at_most
    if (by := facts.replay_paused) is not None:
        what = replays_paused(by)
        yield Finding(
            "replay_paused",
            what,
            since_ms=by.at_ms,
            lifts=RESUME_REPLAYS,
            waiting=back,
            at_most=at_most,
        )
    if not facts.replay.members and facts.coming_back:
        what = "no replay process runs: dead letters and deferred leads do not come back"
        yield Finding("no_replay", what, lifts="stream-app replay", waiting=back, at_most=at_most)


def _of_lane(lane: LaneFacts, facts: Facts) -> Iterator[Finding]:
    view = lane.view
    waiting = _behind(lane)
    if lane.unreadable:
        yield Finding("unreadable", lane.unreadable, lane.workspace, waiting=waiting)
    if lane.asked:
        what = f"{count(lane.asked, 'command')} for partition {lane.partition} not answered yet"
        yield Finding(
            "commands_wait",
            what,
            lane.workspace,
            holds=False,
            lifts="a worker",
            waiting=lane.asked,
        )
    if view is None and lane.unreadable:
        return
    if lane.view_unreadable:
        yield Finding(
            "view_unreadable",
            VIEW_UNREADABLE,
            lane.workspace,
            holds=False,
            lifts="the next state that its worker publishes, or an update of this program",
            waiting=waiting,
        )
        return
    if view is None:
        yield Finding(
            "never_moved",
            "nothing was ever sent for it",
            lane.workspace,
            holds=False,
            waiting=waiting,
        )
        return
    if view.partition != lane.partition:
        what = (
            f"its lane lives in partition {view.partition}, the configuration says {lane.partition}"
        )
        pin = f"set workspaces.{lane.workspace}.partition = {view.partition}"
        yield Finding("moved", what, lane.workspace, lifts=pin, waiting=waiting)
        return
    view = view.at(facts.at_ms)
    parts = view.partly
    if view.holds:
        yield Finding(
            code=view.holds,
            what=view.says,
            workspace=lane.workspace,
            since_ms=view.since_ms,
            until_ms=view.until_ms,
            until_probe=ends_by_probe(view.holds),
            lifts=view.lifts,
            waiting=waiting,
            columns=_columns(view.holds, view, view.destinations),
        )
    yield from (_in_part(part, lane, view) for part in parts)
    yield from _suspended_webhooks(lane, view, facts.at_ms)
    yield from _fallen_yields(view)
    if (runs := open_runs(view, facts.at_ms)) is not None:
        yield runs
    # An unreadable lane would run, but nothing of its partition reaches it.
    if view.holds or lane.unreadable:
        return
    works = facts.worker.members > 0
    what = f"{'runs' if works else 'would run'} at up to {pace_text(view)}"
    going = waiting - (lane.waiting.get(_BULK, 0) if parts else 0)
    if going and not lane.is_shared and all(part.bulk for part in parts):
        what += f"; what waits takes about {_time_left(going, view, facts.at_ms)}"
    if lane.shared_with:
        what += f"; shares partition {lane.partition} with {lane.neighbours}"
    yield Finding(
        "moves" if works else "would_move",
        what,
        lane.workspace,
        holds=False,
        waiting=waiting,
    )


def open_runs(view: LaneView, now_ms: int) -> Finding | None:
    """Return what is said of the runs of a lane; None if none is open."""
    runs = view.runs
    if runs is None:
        return None
    poll_ms = runs.next_ms if runs.next_ms > now_ms else 0
    what = runs.says
    if runs.next_ms and not poll_ms and not runs.waits_for_rate:
        late_ms = now_ms - runs.next_ms
        what += f"; a poll was due {duration(late_ms / 1000)} ago"
        if late_ms < _WRITTEN_WITHIN_MS:
            what += ", and what follows is known within a minute"
    return Finding("runs_open", what, view.workspace, holds=False, poll_ms=poll_ms)


def outlook(
    view: LaneView,
    name: MeterName,
    foreseen: Forecast | None,
    now_ms: int,
) -> Outlook | None:
    """Return what becomes of a budget: what admission decided, else the forecast.

    It is None if nothing is known.
    """
    view = view.at(now_ms)
    meter = view.meters[name].at(now_ms)
    freed = f" callbacks free some of the {meter.reserved:,} reserved, or" if meter.reserved else ""
    if view.holds == f"budget_{name}":
        return Outlook(f"nothing more until{freed}", view.until_ms, is_full=True, why=view.text)
    for part in view.partly:
        if part.holds == f"budget_{name}":
            leads = "bulk of " if part.bulk else ""
            says = f"nothing more to {leads}{', '.join(part.destinations)} until{freed}"
            return Outlook(says, part.until_ms, is_full=True, why=part.text)
    if meter.left == 0:
        return Outlook("used up until", meter.ends_ms, is_full=True)
    if meter.left is None or foreseen is None or not foreseen.per_hour:
        return None
    pace = f"{foreseen.per_hour:,.0f} an hour"
    if foreseen.empty_at_ms is not None:
        return Outlook(f"{pace}: used up about", foreseen.empty_at_ms)
    return Outlook(f"{pace}: lasts until", meter.ends_ms, is_short=False)


def _time_left(leads: int, view: LaneView, now_ms: int) -> str:
    """Return how long these leads take at the lane's rate and within its budgets."""
    slowest_s = leads / max(_per_s(view), 0.01)
    because = ""
    for name, meter in view.meters.items():
        kind, _, period = name.partition("_")
        costs = [
            estimate.credits if kind == "credits" else estimate.actions
            for estimate in view.estimates.values()
        ]
        cost = sum(costs) / len(costs) if costs else 0.0
        if meter.cap is None or not cost:
            continue
        now = int((meter.at(now_ms).left or 0) / cost)
        later = int(meter.cap / cost)
        if leads <= now:
            continue
        if not later:
            return f"for ever: the budget {name} is too small for one lead"
        length_s = _PERIODS_S[period]
        rest_s = (meter.ends_ms - now_ms) / 1000 if now_ms < meter.ends_ms else length_s
        takes_s = rest_s + (math.ceil((leads - now) / later) - 1) * length_s
        if takes_s > slowest_s:
            slowest_s = takes_s
            because = f": the budget {name} has room for about {count(now, 'more lead')} now"
    return duration(slowest_s) + because


def pace_text(view: LaneView) -> str:
    """Return how many leads a second a lane can send at most, with the limit that says so."""
    per_s = f"{rate_text(_per_s(view))} a second"
    if view.bound_by == "rate":
        return f"{per_s}, its rate"
    calls = count(view.concurrency, "call")
    limit = f"delivery.max_in_flight lets {calls} be under way"
    if view.bound_by == "concurrency":
        limit = f"{calls} may be under way as long as Clay is slower than usual"
    return f"{per_s}: {limit}, and each takes {view.held_ms / 1000:.1f} s"


def _per_s(view: LaneView) -> float:
    # A view that an earlier version published has only its rate.
    return view.sends_per_s or view.rate_per_s


def _in_part(part: PartHold, lane: LaneFacts, view: LaneView) -> Finding:
    """Return the finding of a partial hold.

    It blocks other leads too while one of its leads is next in a topic.
    """
    names = ", ".join(part.destinations)
    what = f"leads of {names}: {part.says}"
    waiting = _behind(lane)
    if part.bulk:
        what = f"bulk leads of {names}: {part.says}"
        waiting = lane.waiting.get(_BULK, 0)
    return Finding(
        code=part.holds,
        what=what,
        workspace=lane.workspace,
        since_ms=part.since_ms,
        until_ms=part.until_ms,
        until_probe=ends_by_probe(part.holds),
        lifts=lifts(part.holds, view.workspace),
        waiting=waiting,
        destinations=part.destinations,
        columns=_columns(part.holds, view, part.destinations),
    )


def _columns(
    holds: str,
    view: LaneView,
    destinations: Container[str],
) -> tuple[tuple[str, str], ...]:
    """Return the columns for whose yield these destinations are held; none for another reason."""
    if holds != yield_health.YIELD_FELL:
        return ()
    return tuple(
        (fall.destination, fall.column) for fall in view.falls if fall.destination in destinations
    )


def _suspended_webhooks(lane: LaneFacts, view: LaneView, now_ms: int) -> Iterator[Finding]:
    """Yield webhooks that are out while others of their pool take the leads.

    One that an operator has taken out of use is no news.
    """
    named_in = (view.text, *(part.text for part in view.partly))
    for webhook_id, webhook in view.webhooks.items():
        stopped = webhook.suspension
        if stopped is None or webhook.dead or any(webhook_id in text for text in named_in):
            continue
        left = remains(WEBHOOK_OUT, stopped.probe_at_ms, now_ms)
        yield Finding(
            code=WEBHOOK_OUT,
            what=stopped.text,
            workspace=lane.workspace,
            holds=False,
            since_ms=stopped.since_ms,
            until_ms=left.until_ms if left is not None else 0,
            until_probe=ends_by_probe(WEBHOOK_OUT),
            lifts=lifts(WEBHOOK_OUT, view.workspace),
        )


def _fallen_yields(view: LaneView) -> Iterator[Finding]:
    """Yield the columns that Clay finds less often, if that does not hold their leads."""
    holds = (view.holds, *(part.holds for part in view.partly))
    if yield_health.YIELD_FELL in holds:
        return
    for fall in view.falls:
        yield Finding(
            code=yield_health.YIELD_FELL,
            what=fall.text,
            workspace=view.workspace,
            holds=False,
            since_ms=fall.since_ms,
            until_ms=fall.since_ms + yield_health.LASTS_MS,
            lifts="answers of Clay that have it again; until then look at the column in Clay",
            columns=((fall.destination, fall.column),),
        )


def _behind(lane: LaneFacts) -> int:
    return sum(lane.waiting.values())


def duration(seconds: float) -> str:
    """Return a duration in its largest unit."""
    for unit, length in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(1, round(seconds))} s"
