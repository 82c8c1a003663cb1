"""What all pages are made from, and the state of each lane in words."""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Hashable, Mapping
from typing import Any, Final, Literal, TypeVar
from urllib.parse import quote

import msgspec

from stream_app.board import charts
from stream_app.board.access import Visitor
from stream_app.board.persons import for_a_person
from stream_app.board.read_model.board_query import BoardQueries, Slot
from stream_app.board.read_model.follow import ProjectionLag
from stream_app.board.read_model.history import MINUTE_S
from stream_app.client.results.answers import StatusCount
from stream_app.config import Settings
from stream_app.domain.lane.holds import reason_of
from stream_app.domain.lane.overrides import OrderKind
from stream_app.domain.limits.budget import METERS, Budget, MeterName
from stream_app.domain.limits.meters import SAMPLED_MS, Forecast, Meter, Sample, forecast, meters
from stream_app.domain.views.backlog import Place
from stream_app.domain.views.explain import (
    HELD_IN_PART,
    VIEW_UNREADABLE,
    ConsumerGroup,
    Facts,
    Finding,
    LaneFacts,
    Outlook,
    explain,
    outlook,
)
from stream_app.domain.views.lane import LaneView
from stream_app.kafka.backlog import Waiting, sum_of, waiting_in
from stream_app.kafka.groups import Consumption

T = TypeVar("T")
Tone = Literal["ok", "warn", "bad", "idle"]
PageData = Mapping[str, object]
"""What a page hands to its template, by name."""

TONES_OF_HELD: Final[tuple[Tone, ...]] = ("bad", "warn")
"""The tones of a lane that is held, or held in part."""
NOT_READABLE: Final = "not readable"
"""The state of a lane whose last record cannot be read."""
ROWS: Final = 50
"""The rows of a page of a list."""
KAFKA_WITHIN_S: Final = 0.3
"""How long a page waits for an answer of Kafka; then it shows what was known before."""
HOUR_S: Final = 3_600
_SPARK_S: Final = 300
_OF_WORKERS: Final = frozenset({"no_worker", "rebalancing"})
"""Findings about all of Kafka."""
_OF_NO_LANE: Final = frozenset({"moved", "unreadable"})
"""Findings that hold a lane although the lane itself runs. A person repairs them in another place.
"""
_REMEDIES: Final[Mapping[OrderKind, str]] = {
    "resume": "Resume",
    "auto": "Let the breaker decide",
    "reset": "Reset the breaker",
    "quota": "Put the webhook back",
    "budget": "Budget",
}
"""What is on the button of the order that ends a hold."""


class Site(msgspec.Struct, frozen=True):
    """What does not change while the board runs."""

    settings: Settings
    queries: BoardQueries

    def views(self, workspaces: Collection[str], now_ms: int) -> dict[str, LaneView]:
        """Return the last published views of lanes as they are at `now_ms`.

        Lanes without one are absent.
        """
        return {
            name: view
            for name in workspaces
            if (view := self.queries.lane(name, now_ms)) is not None
        }

    def home(self, workspace: str, view: LaneView | None) -> int:
        """Return the partition of a lane.

        One that the configuration no longer has stays where it was.
        """
        if view is None or workspace in self.settings.workspaces:
            return self.settings.home(workspace)
        return view.partition


class Shared:
    """What was read and made at a moment, for all boards that ask for the same.

    Use it from one thread.
    """

    def __init__(self) -> None:
        self._made: dict[Hashable, Any] = {}

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return what `make` makes, which runs only once for a key."""
        if key not in self._made:
            self._made[key] = make()
        made: T = self._made[key]
        return made


class Moment(msgspec.Struct, frozen=True):
    """What a request sees. Requests of the same second see the same.

    Attributes:
        kafka: What Kafka says beside the topics; None if it does not answer, or has not done so yet
            (`is_asking`).
        visitor: Who asks, and in which role.
        shared: What was read and made for others. Nothing in it may depend on who asks, only on the
            role.
    """

    now_ms: int
    lag: ProjectionLag
    kafka: Consumption | None
    visitor: Visitor
    is_asking: bool = False
    shared: Shared = msgspec.field(default_factory=Shared)


class Bar(msgspec.Struct, frozen=True):
    """A budget as a bar.

    Attributes:
        spent_share: In percent of the cap, as `reserved_share`.
        seen: What becomes of it; None if nothing is known.
        per_hour: What is used in an hour; 0 if unknown.
        ends_ms: When its day or month ends, epoch ms.
    """

    name: MeterName
    label: str
    used: int
    reserved: int
    cap: int | None
    spent_share: float
    reserved_share: float
    tone: Tone
    seen: Outlook | None = None
    per_hour: float = 0.0
    ends_ms: int = 0


class ListedLane(msgspec.Struct, frozen=True):
    """A lane in a list.

    Attributes:
        state: A word or three, such as `running`; `tone` is its colour and shape.
        says: Why, in a few words.
        findings: What `stream-app explain` reports of it.
        partition: Where its records are.
        waiting: Records in that partition that no worker has taken; with `at_most` an upper bound.
        shared: Other workspaces have leads in that partition: some of these records may be theirs.
        remedies: The commands that end what holds it: label and address below that of its commands.
        bars: Its budgets; only in `lane_rows`.
        spark: Leads that ended in every five minutes of the last hour, as a polyline; only in
            `lane_rows`.
        meters: Its budgets as it published them, or as they are configured if nothing was ever
            sent.
    """

    workspace: str
    state: str
    tone: Tone
    says: str
    view: LaneView | None
    findings: list[Finding]
    partition: int
    waiting: int
    at_most: bool = False
    shared: bool = False
    remedies: list[tuple[str, str]] = []
    bars: list[Bar] = []
    spark: str = ""
    meters: Mapping[MeterName, Meter] = {}

    @property
    def needs_a_person(self) -> bool:
        """True if something holds it that neither ends by itself nor is what an operator wanted."""
        return any(
            finding.holds and for_a_person(finding.code) is not None for finding in self.findings
        )


class Overview(msgspec.Struct, frozen=True):
    """All lanes.

    Attributes:
        everywhere: What concerns all of them.
        counts: Leads by status.
    """

    lanes: list[ListedLane]
    everywhere: list[Finding]
    counts: list[StatusCount]

    @property
    def held(self) -> list[ListedLane]:
        """The lanes that are held, or held in part: the worst first."""
        held = [lane for lane in self.lanes if lane.tone in TONES_OF_HELD]

        def order(lane: ListedLane) -> tuple[bool, bool, int, str]:
            is_part = lane.state == HELD_IN_PART
            return (lane.tone != "bad", is_part, -lane.waiting, lane.workspace)

        return sorted(held, key=order)

    @property
    def held_in_part(self) -> int:
        """How many lanes are held in part."""
        return sum(lane.state == HELD_IN_PART for lane in self.lanes)

    def in_columns(self, *columns: str) -> int:
        """Return the number of leads in these columns of the books."""
        return sum(count.leads for count in self.counts if count.column in columns)


def overview(site: Site, moment: Moment) -> Overview:
    """Read the state of all lanes."""
    return moment.shared.once("overview", lambda: _overview(site, moment))


def _overview(site: Site, moment: Moment) -> Overview:
    views, unreadable = site.queries.lanes(moment.now_ms)
    counts = site.queries.status_sums(None)
    by_name: dict[str, LaneView | None] = dict.fromkeys([*site.settings.workspaces, *unreadable])
    by_name |= {view.workspace: view for view in views}
    left = untaken(moment) or {}
    waiting = waiting_in(left, site.settings.names.namespace)
    not_readable = set(unreadable)
    facts = [
        lane_facts(
            site,
            waiting,
            name,
            view,
            with_others=False,
            unreadable=name in not_readable,
        )
        for name, view in sorted(by_name.items())
    ]
    back = sum(count.leads for count in counts if count.status in ("dead_lettered", "deferred"))
    findings: defaultdict[str, list[Finding]] = defaultdict(list)
    on_kafka = sum_of(left)
    for finding in explain(_facts(site, moment, facts, back)):
        if finding.code in _OF_WORKERS:  # they hold what is in partitions without a lane, too
            finding = msgspec.structs.replace(
                finding,
                waiting=on_kafka.records,
                at_most=on_kafka.at_most,
            )
        findings[finding.workspace].append(finding)
    lanes = [lane_of(site, fact, findings[fact.workspace], moment) for fact in facts]
    return Overview(lanes, findings[""], counts)


def one_lane(site: Site, moment: Moment, workspace: str) -> ListedLane | None:
    """Read the state of one lane. None if it is neither configured nor known."""
    view = site.queries.lane(workspace, moment.now_ms)
    unreadable = view is None and site.queries.has_lane(workspace)
    if view is None and not unreadable and workspace not in site.settings.workspaces:
        return None
    facts = lane_facts(
        site,
        waiting_in(untaken(moment) or {}, site.settings.names.namespace),
        workspace,
        view,
        with_others=True,
        unreadable=unreadable,
    )
    findings = [
        finding
        for finding in explain(_facts(site, moment, [facts], 0))
        if finding.workspace == workspace
    ]
    return lane_of(site, facts, findings, moment)


def untaken(moment: Moment) -> dict[Place, Waiting] | None:
    """Return the records that no worker has taken, by lead topic and partition.

    None if Kafka does not answer.
    """
    return None if moment.kafka is None else moment.kafka.waiting


def lane_facts(
    site: Site,
    waiting: Mapping[int, dict[str, Waiting]],
    workspace: str,
    view: LaneView | None,
    *,
    with_others: bool,
    unreadable: bool,
) -> LaneFacts:
    """Return what `explain` needs.

    `with_others` names the workspaces in the same partition, unless they are many. If the lane
    published a state that this version cannot read, it is `unreadable`, and `view` is None.
    """
    home = site.home(workspace, view)
    residents = site.settings.plan.residents(home)
    others = len(residents) - (workspace in residents)
    named = (
        tuple(other for other in residents if other != workspace)
        if with_others and others <= 5
        else ()
    )
    in_partition = waiting.get(home, {})
    return LaneFacts(
        workspace,
        home,
        view,
        {topic: left.records for topic, left in in_partition.items()},
        named,
        shared_with_more=others - len(named),
        view_unreadable=unreadable,
        at_most=any(left.at_most for left in in_partition.values()),
    )


def _facts(site: Site, moment: Moment, lanes: list[LaneFacts], coming_back: int) -> Facts:
    # Nothing is claimed of a group that Kafka does not describe.
    unknown = ConsumerGroup("Stable", 1)
    if moment.kafka:
        worker = moment.kafka.worker
        replay = moment.kafka.replay
    else:
        worker = unknown
        replay = unknown
    return Facts(moment.now_ms, worker, replay, lanes, coming_back, site.queries.pause())


def lane_of(site: Site, facts: LaneFacts, findings: list[Finding], moment: Moment) -> ListedLane:
    """Return a lane in words. Nothing is claimed of one whose state cannot be read."""
    view = facts.view
    waiting = sum(facts.waiting.values())
    shared = facts.is_shared
    if facts.view_unreadable:
        return ListedLane(
            facts.workspace,
            NOT_READABLE,
            "idle",
            VIEW_UNREADABLE,
            view,
            [],
            facts.partition,
            waiting,
            facts.at_most,
            shared,
        )
    # What holds the whole lane comes before what holds a part of it.
    hold = next((finding for finding in findings if finding.holds), None)
    state: str
    tone: Tone
    if hold is not None:
        needs_repair = hold.code in _OF_NO_LANE or reason_of(hold.code).needs_repair
        state = hold.state
        tone = "bad" if needs_repair else "warn"
        says = hold.what
    elif view is None:
        state = "idle"
        tone = "idle"
        says = "nothing was ever sent for it"
    elif moment.kafka is not None and not moment.kafka.worker.members:
        state = "waits"
        tone = "warn"
        says = "no worker runs"
    elif (waiting and not shared) or view.calls:
        state = "running"
        tone = "ok"
        says = ""
    else:
        state = "idle"
        tone = "idle"
        says = "nothing to send"
    remedies: list[tuple[str, str]] = []
    if view is not None and facts.workspace in site.settings.workspaces:
        known = (remedy_of(finding, view) for finding in findings if finding.holds)
        remedies = list(dict.fromkeys(remedy for remedy in known if remedy is not None))
    return ListedLane(
        facts.workspace,
        state,
        tone,
        says,
        view,
        findings,
        facts.partition,
        waiting,
        facts.at_most,
        shared,
        remedies,
        meters=_meters(site, facts.workspace, view, moment.now_ms),
    )


def _meters(
    site: Site,
    workspace: str,
    view: LaneView | None,
    now_ms: int,
) -> Mapping[MeterName, Meter]:
    """Return the budgets of a lane.

    They are those of the configuration until its worker publishes them.
    """
    if view is not None:
        return view.meters
    policy = site.settings.workspaces.get(workspace)
    return {} if policy is None else meters(policy.budget, Budget(), now_ms)


def remedy_of(finding: Finding, view: LaneView) -> tuple[str, str] | None:
    """Return the command that ends a hold.

    Returns:
        Its label, and its address below that of the lane's commands.
    """
    if finding.code in _OF_NO_LANE:
        return None
    remedy = reason_of(finding.code).remedy
    if not remedy:
        return None
    path: str = remedy
    if remedy == "quota":
        out = [
            name for name, webhook in view.webhooks.items() if webhook.suspension or webhook.dead
        ]
        named = [name for name in out if name in finding.what] or out
        if named:
            path = f"quota?webhook={quote(named[0], safe='')}&use=use"
    return _REMEDIES[remedy], path


def bars_of(lane: ListedLane, forecasts: Mapping[str, Forecast], now_ms: int) -> list[Bar]:
    """Return the budgets of a lane that have a cap, or in which something was used."""
    bars: list[Bar] = []
    for name, label in METERS.items():
        if name not in lane.meters:
            continue
        meter = lane.meters[name].at(now_ms)
        cap = meter.cap
        if cap is None and not meter.used:
            continue
        if cap:
            spent = meter.booked / cap * 100
            reserved = meter.reserved / cap * 100
        else:
            spent = 0.0
            reserved = 0.0
        foreseen = forecasts.get(name)
        seen = None if lane.view is None else outlook(lane.view, name, foreseen, now_ms)
        tone: Tone = "bad" if seen and seen.is_full else "warn" if spent + reserved >= 80 else "ok"
        spent = round(min(100.0, spent), 2)
        reserved = round(min(100.0, reserved), 2)
        rate = foreseen.per_hour if foreseen else 0.0
        ends_ms = meter.ends_ms
        bars.append(
            Bar(
                name,
                label,
                meter.booked,
                meter.reserved,
                cap,
                spent,
                reserved,
                tone,
                seen,
                rate,
                ends_ms,
            ),
        )
    return bars


def forecasts_of(view: LaneView, minutes: Collection[Slot], now_ms: int) -> dict[str, Forecast]:
    """Forecast the credits of a lane.

    `minutes` has what was booked lately, as far as it is known.
    """
    forecasts: dict[str, Forecast] = {}
    for name in ("credits_day", "credits_month"):
        if (meter := view.meters.get(name)) is None:
            continue
        known = [
            slot
            for slot in minutes
            if slot.at_s * 1000 >= max(now_ms - SAMPLED_MS, meter.begins_ms)
        ]
        since_ms = known[0].at_s * 1000 if known else now_ms
        spent = meter.spent - sum(slot.credits for slot in known)
        samples = [Sample(since_ms, msgspec.structs.replace(meter, spent=spent))]
        for slot in known:
            spent += slot.credits
            samples.append(
                Sample((slot.at_s + MINUTE_S) * 1000, msgspec.structs.replace(meter, spent=spent)),
            )
        samples.append(Sample(now_ms, meter))
        if (foreseen := forecast(samples, now_ms)) is not None:
            forecasts[name] = foreseen
    return forecasts


def lane_rows(site: Site, moment: Moment, lanes: list[ListedLane]) -> list[ListedLane]:
    """Return the lanes of one page with the budgets and the last hour of each."""
    begin_s = moment.now_ms // 1000 // MINUTE_S * MINUTE_S - HOUR_S + MINUTE_S
    names = [lane.workspace for lane in lanes]
    ended_in = site.queries.came_to_rest(names, MINUTE_S, begin_s)
    booked = site.queries.credits(names, MINUTE_S, begin_s)
    rows = []
    for lane in lanes:
        ended: Counter[int] = Counter()
        for slot in ended_in[lane.workspace]:
            ended[(slot.at_s - begin_s) // _SPARK_S] += slot.leads
        spark = charts.spark([ended[n] for n in range(HOUR_S // _SPARK_S)])
        view = lane.view
        credits_ = booked[lane.workspace]
        now_ms = moment.now_ms
        bars = bars_of(lane, forecasts_of(view, credits_, now_ms) if view else {}, now_ms)
        rows.append(msgspec.structs.replace(lane, spark=spark, bars=bars))
    return rows
