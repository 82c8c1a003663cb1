"""Replays that are planned, sent, stopped and resumed on the board, and dead letters given up."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Final, Literal, cast, get_args

import msgspec
from attrs import define, field

from stream_app.board.access import PATH, AccessRefused
from stream_app.board.formats import cause_path, replay_path
from stream_app.board.forms import (
    Action,
    Fact,
    Form,
    FormField,
    FormRequest,
    FormSubmission,
    Invalid,
)
from stream_app.board.page import followed_at
from stream_app.board.pages.dead import DeadLetterTopic, cause_of, filter_of, options_of, which_of
from stream_app.board.requests import one_of, word
from stream_app.board.site import Site
from stream_app.client.lanes.commands import Put, put_command
from stream_app.client.lanes.views import last_views
from stream_app.client.results.answers import Cause
from stream_app.config import Settings
from stream_app.domain.dead_letter.causes import Filter, LetterSource
from stream_app.domain.dead_letter.orders import (
    FATE_MEANING,
    MAX_GIVEN_UP,
    PLAN_LIFE_MS,
    PricedPlan,
    ReplayCommand,
    price_lines,
)
from stream_app.domain.model.errors import StreamAppError
from stream_app.domain.model.records import parse_record_id
from stream_app.domain.model.text import count
from stream_app.domain.views.price import too_dear
from stream_app.kafka.readers import Progress
from stream_app.ops import logs
from stream_app.replay.orders import command_record, give_up_commands, ordered_plan, start_command
from stream_app.replay.plan import check_filter, spans_of, survey_in_thread, topic_of
from stream_app.tasks import cancel

log = logs.get("board")

_MAX_PLANS: Final = 50


class Wanted(msgspec.Struct, frozen=True):
    """What is planned: the options of `stream-app replay plan`."""

    source: LetterSource
    filter: Filter
    uncertain: bool = False
    limit: int | None = None


class PlanInProgress(msgspec.Struct):
    """A plan, while it is made and after that.

    Attributes:
        began_ms: When it began, epoch ms.
        done: Offsets that were read.
        total: Offsets to read; 0 until they are known.
        ends: Partition -> the offset after the last dead letter.
        priced: The result; None until it is there.
        problem: Why there is none.
    """

    id: str
    wanted: Wanted
    who: str
    began_ms: int
    done: int = 0
    total: int = 0
    ends: dict[int, int] = {}
    priced: PricedPlan | None = None
    problem: str = ""

    @property
    def under_way(self) -> bool:
        """True until it is priced, or has a problem."""
        return self.priced is None and not self.problem

    @property
    def expires_ms(self) -> int:
        """When it can no longer be sent, epoch ms."""
        return self.began_ms + PLAN_LIFE_MS


Survey = Callable[[Settings, Wanted, Progress], Awaitable[tuple[dict[int, int], PricedPlan]]]
"""Returns the offset after the last dead letter by partition, and the plan."""


async def _survey_kafka(
    settings: Settings,
    wanted: Wanted,
    progress: Progress,
) -> tuple[dict[int, int], PricedPlan]:
    spans = await spans_of(settings, wanted.source)
    priced, _ = await survey_in_thread(
        settings,
        wanted.source,
        wanted.filter,
        progress,
        ranges=spans,
        uncertain=wanted.uncertain,
        limit=wanted.limit,
        read_views=last_views,
    )
    return {number: end for number, (_, end) in spans.items()}, priced


class Busy(Exception):
    """Another plan is being made."""

    def __init__(self, plan: PlanInProgress) -> None:
        super().__init__(plan.id)
        self.plan = plan


@define(eq=False, repr=False)
class Planner:
    """Makes plans, keeps them for ten minutes, and sends commands."""

    _settings: Settings
    _put: Put
    _now_ms: Callable[[], int]
    _survey: Survey = _survey_kafka
    _plans: dict[str, PlanInProgress] = field(init=False, factory=dict)
    _task: asyncio.Task[None] | None = field(init=False, default=None)

    async def close(self) -> None:
        """End the plan that is being made."""
        await cancel([self._task])

    def begin(self, wanted: Wanted, who: str) -> PlanInProgress:
        """Begin a plan.

        Raises SettingsError if the filter is wrong, and Busy if another plan is being made.
        """
        check_filter(self._settings, wanted.source, wanted.filter)
        for plan in list(self._plans.values()):
            if plan.under_way:
                raise Busy(plan)
            if plan.expires_ms < self._now_ms() or len(self._plans) >= _MAX_PLANS:
                del self._plans[plan.id]
        plan = PlanInProgress(secrets.token_hex(6), wanted, who, self._now_ms())
        self._plans[plan.id] = plan
        self._task = asyncio.create_task(self._make(plan))
        return plan

    def find(self, plan_id: str) -> PlanInProgress | None:
        """Return a plan that has not expired."""
        plan = self._plans.get(plan_id)
        return plan if plan is not None and plan.expires_ms >= self._now_ms() else None

    async def give_up(self, plan: PlanInProgress) -> None:
        if plan.under_way:
            plan.problem = "it was cancelled"
            await cancel([self._task])

    async def send(self, plan: PlanInProgress, who: str, why: str, *, over_budget: bool) -> str:
        """Order the replay of a plan, and return its id.

        A plan is one replay, however often it is sent.

        Raises:
            BrokerUnavailable: Kafka did not confirm it.
        """
        priced = plan.priced
        assert priced is not None, "a form sends only a plan that is made"
        source = plan.wanted.source
        wanted = plan.wanted.filter
        how = {"uncertain": plan.wanted.uncertain}
        order = ordered_plan(
            plan.began_ms,
            source,
            wanted,
            plan.ends,
            priced,
            over_budget=over_budget,
            **how,
        )
        await self._command(start_command(order, who, why, replay=f"r-{plan.id}"))
        return f"r-{plan.id}"

    async def change(
        self,
        command_id: str,
        kind: Literal["stop", "resume"],
        replay: str,
        who: str,
        why: str,
    ) -> None:
        """Stop or resume a replay. Raises BrokerUnavailable."""
        await self._command(ReplayCommand(command_id, kind, replay, self._now_ms(), who, why))

    async def end(
        self,
        command_id: str,
        records: Sequence[str],
        who: str,
        why: str,
    ) -> list[ReplayCommand]:
        """Give dead letters up (`topic/partition/offset`), and return the commands for it.

        Raises:
            BrokerUnavailable: Kafka did not confirm one of them.
        """
        commands = give_up_commands(records, who, why, self._now_ms(), command_id)
        for command in commands:
            await self._command(command)
        return commands

    async def _command(self, command: ReplayCommand) -> None:
        await put_command(self._put, [command_record(self._settings, command)])

    async def _make(self, plan: PlanInProgress) -> None:
        def note(done: int, total: int) -> None:
            plan.done = done
            plan.total = total

        try:
            async with asyncio.timeout(PLAN_LIFE_MS / 1000):
                plan.ends, plan.priced = await self._survey(self._settings, plan.wanted, note)
        except TimeoutError:
            plan.problem = "it took longer than a plan may be sent: choose fewer dead letters"
        except StreamAppError as error:
            plan.problem = str(error)
        except Exception as error:
            log.exception("plan_failed")
            plan.problem = f"a bug ended it ({type(error).__name__}): the log of the board has more"


_DEAD: Final = f"{PATH}/dead"
_SOURCES: Final[Sequence[tuple[LetterSource, str]]] = (
    ("dlq", "dead letters"),
    ("parked", "parked leads"),
    ("deferred", "deferred leads, sooner than they are due"),
)
_KINDS: Final = (
    ("", "those that Clay did not take"),
    ("failed", "failed: Clay did not take it"),
    ("poison", "poison: not a lead, or refused for good"),
    ("policy", "policy: refused by the configuration"),
    ("foreign", "foreign: another program wrote it"),
    ("deferred", "deferred"),
)
_UNCERTAIN: Final = (("", "leave them out"), ("yes", "send them too: they may be paid for twice"))
_MEANING: Final = FATE_MEANING | {
    "may_be_at_clay": "may have reached Clay: plan again and choose to send them too",
    "waits_for_ask": (
        "refused for good: plan again with the disposition poison, policy or foreign"
    ),
    "over_limit": "would go, too, with a higher number in At most",
}
"""As `FATE_MEANING`, with the fields of the form where that names options of the command line."""
_OVER_BUDGET: Final = (
    ("", "refuse"),
    ("yes", "send all: what the budget does not cover waits for the next one"),
)


def replay_actions(site: Site, planner: Planner) -> list[Action]:
    """Return the actions of the pages Dead letters, Plan and Replay."""
    one = "/replays/{replay}/act/"
    return [
        Action("/dead/act/plan", partial(_ask, site), partial(_begin, planner), "dead"),
        Action("/dead/act/give-up", partial(_ask_to_end, site), partial(_end, planner), "dead"),
        Action(
            "/dead/act/plan/{plan}",
            partial(_plan, planner),
            partial(_send, planner),
            "dead",
            template="plan",
        ),
        Action(
            f"{one}stop",
            partial(_change, site, "stop"),
            partial(_apply, planner, "stop"),
            "dead",
        ),
        Action(
            f"{one}resume",
            partial(_change, site, "resume"),
            partial(_apply, planner, "resume"),
            "dead",
        ),
    ]


def _ask(site: Site, opened: FormRequest) -> Form:
    given = partial(word, opened.query)
    source = one_of(opened.query, "from", get_args(LetterSource)) or "dlq"
    return Form(
        "Plan a replay",
        "Counts what can be sent back and what it costs. Nothing is sent.",
        "Plan",
        _DEAD,
        fields=(
            FormField("from", "From", kind="choice", choices=_SOURCES, value=source),
            FormField("kind", "Disposition", kind="choice", choices=_KINDS, value=given("kind")),
            FormField(
                "reason",
                "Reason",
                hint="such as http_503; empty: all",
                value=given("reason"),
            ),
            FormField("workspace", "Workspace", hint="empty: all", value=given("workspace")),
            FormField("destination", "Destination", hint="empty: all", value=given("destination")),
            FormField(
                "import_id",
                "Import",
                hint="only its leads; empty: all",
                value=given("import_id"),
            ),
            FormField("limit", "At most", kind="number", hint="dead letters; empty: all", most=9),
            FormField(
                "uncertain",
                "Leads that may have reached Clay",
                kind="choice",
                choices=_UNCERTAIN,
            ),
        ),
        asks_why=False,
    )


_WORDS: Final = ("kind", "reason", "workspace", "destination", "import_id")


def _wanted(values: Mapping[str, str]) -> Wanted:
    limit = values.get("limit", "")
    if limit and not (limit.isascii() and limit.isdecimal() and int(limit)):
        raise Invalid({"limit": "Enter a whole number above 0"})
    wanted = filter_of(
        **{name: values.get(name, "") for name in _WORDS},
    )
    source = cast(LetterSource, values.get("from") or "dlq")
    return Wanted(source, wanted, values.get("uncertain") == "yes", int(limit) if limit else None)


async def _begin(planner: Planner, sent: FormSubmission, wanted: Wanted | None = None) -> str:
    """Begin the plan that the form asks for, or the one `wanted` again.

    Returns the address of its page.
    """
    try:
        return f"{_DEAD}/act/plan/{planner.begin(wanted or _wanted(sent.values), sent.who).id}"
    except Busy as busy:
        raise Invalid(
            {"": f"A plan of {busy.plan.who} is being made here: try again when it is ready"},
        ) from None


def _plan_of(planner: Planner, opened: FormRequest) -> PlanInProgress:
    plan = planner.find(opened.path["plan"])
    if plan is None:
        text = (
            "This plan is older than 10 minutes, or the board was restarted: "
            "plan again on the page Dead letters"
        )
        raise AccessRefused(404, "plan_expired", text)
    return plan


def _plan(planner: Planner, opened: FormRequest) -> Form:
    plan = _plan_of(planner, opened)
    wanted = plan.wanted
    priced = plan.priced
    options = options_of(
        wanted.source,
        wanted.filter,
        uncertain=wanted.uncertain,
        limit=wanted.limit,
    )
    view: dict[str, object] = {
        "plan": plan,
        "under_way": plan.under_way,
        # The percentage of the offsets that were read.
        "share": round(plan.done / plan.total * 100, 1) if plan.total else 0.0,
        "command": f"stream-app replay select {options}",  # the command line that does the same
    }
    if plan.under_way:
        text = "Reads the dead letters and what became of their leads. Nothing is sent."
        return Form("Planning a replay", text, "Cancel", _DEAD, asks_why=False, more=view)
    if priced is None:
        return Form(
            "No plan",
            f"There is no plan: {plan.problem}",
            "Plan again",
            _DEAD,
            asks_why=False,
            more=view,
        )
    view |= {
        "lines": list(price_lines(priced, "send fewer, or say below to send all")),
        "left_out": [
            (many, _MEANING[end])
            for end, many in priced.fates.most_common()
            if end not in ("goes", "as_input")
        ],
        "causes": priced.causes.most_common(20),
    }
    matching = count(priced.dead_letters, "dead letter matches", "dead letters match")
    if not priced.go:
        text = f"{matching}, and none can be sent."
        return Form("Nothing to send back", text, "Plan again", _DEAD, asks_why=False, more=view)
    leads = count(priced.go, "dead letter")
    over = (
        FormField(
            "over_budget",
            "More than the budget has left",
            kind="choice",
            choices=_OVER_BUDGET,
        ),
    )
    return Form(
        f"Send {leads} back",
        f"{matching}. {priced.go:,} can be sent back, each once.",
        f"Send {leads} for up to {count(priced.credits_at_most, 'credit')}",
        _DEAD,
        fields=over if too_dear(priced.quotes) else (),
        more=view,
    )


async def _send(planner: Planner, sent: FormSubmission) -> str:
    plan = _plan_of(planner, sent.opened)
    view = sent.form.more
    if view["under_way"]:
        await planner.give_up(plan)
        return _DEAD
    if plan.priced is None or not plan.priced.go:
        return await _begin(planner, sent, plan.wanted)
    over_budget = sent.values.get("over_budget") == "yes"
    if not over_budget and (dear := too_dear(plan.priced.quotes)):
        raise Invalid({"over_budget": "; ".join(dear)})
    return replay_path(await planner.send(plan, sent.who, sent.why, over_budget=over_budget))


def _change(site: Site, kind: Literal["stop", "resume"], opened: FormRequest) -> Form:
    replay = opened.path["replay"]
    progress = site.queries.replay(replay)
    if progress is None:
        raise AccessRefused(
            404,
            "unknown_replay",
            "There is no such replay: the page Dead letters lists all",
        )
    text = (
        "What was sent stays sent. The rest waits until it is resumed."
        if kind == "stop"
        else (
            "The rest is sent. Its price is checked again first. A replay that runs now is stopped."
        )
    )
    letters = progress.total or progress.plan.dead_letters
    done = f"{progress.sent:,} of {count(letters, 'dead letter is', 'dead letters are')} sent. "
    return Form(
        f"{kind.capitalize()} replay {replay}",
        done + text,
        f"{kind.capitalize()} it",
        replay_path(replay),
    )


async def _apply(planner: Planner, kind: Literal["stop", "resume"], sent: FormSubmission) -> str:
    replay = sent.opened.path["replay"]
    await planner.change(sent.id, kind, replay, sent.who, sent.why)
    return f"{replay_path(replay)}?asked={sent.id}"


_MAX_ENDED: Final = 10_000
_WORD: Final = "give up"


def _ask_to_end(site: Site, opened: FormRequest) -> Form:
    which = which_of(opened.query)
    cause = cause_of(opened.query)
    record = word(opened.query, "record")
    records = [record] if record else _open(site, which, cause)
    if record and not _is_place(site, which, record):
        raise AccessRefused(
            404,
            "no_dead_letter",
            "This is not the place of a dead letter on Kafka",
        )
    if not records:
        raise AccessRefused(
            404,
            "none_open",
            "No dead letter of this cause is open: nothing is to be given up",
        )
    letters = count(len(records), "dead letter")
    more = " These are the newest; more are open." if len(records) == _MAX_ENDED else ""
    return Form(
        f"Give up {letters}",
        "Their leads, or the records that are no leads, end and are never sent, "
        "and no alert counts them any more. What was booked for them stays, because Clay may have "
        f"charged for it. A lead can be published again, unless it may have reached Clay.{more}",
        f"Give up {letters}",
        cause_path(which, cause),
        facts=(Fact(record or cause.reason or "no reason", letters, "given up"),),
        typed=_WORD,
        is_final=True,
        more={"records": records},
    )


def _open(site: Site, which: DeadLetterTopic, cause: Cause) -> list[str]:
    """Return the places of the newest open dead letters of a cause."""
    topic = topic_of(site.settings, which)
    records: list[str] = []
    after = None
    while len(records) < _MAX_ENDED:
        rows = site.queries.dead_letters_of(topic, cause, 0, after, MAX_GIVEN_UP, "open")
        records += [row.record for row in rows]
        if len(rows) < MAX_GIVEN_UP:
            break
        after = rows[-1].place
    return records


def _is_place(site: Site, which: DeadLetterTopic, record: str) -> bool:
    place = parse_record_id(record)
    if place is None:
        return False
    topic, partition, _ = place
    return topic == topic_of(site.settings, which) and partition < site.settings.kafka.partitions


async def _end(planner: Planner, sent: FormSubmission) -> str:
    records = cast("list[str]", sent.form.more["records"])
    commands = await planner.end(sent.id, records, sent.who, sent.why)
    return followed_at(sent.form.back, [command.id for command in commands], commands[-1].at_ms)
