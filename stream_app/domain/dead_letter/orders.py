"""Replays as operators preview, order, pause or resume them, and dead letters that they give up.

A preview says which leads would be sent, their cost, the remaining budget and the duration.
Everything else is a row of the replay state:

    pause         ->  Pause: until an operator resumes all replays
    command/<id>  ->  ReplayCommand: written by the operator, deleted in the transaction that
                      has applied it
    sent/<place>  ->  a dead letter without a row that was sent back or given up
                      (domain/dead_letter/replay.py)
    replay/<id>   ->  ReplayProgress: written by the replay process only, in the transaction
                      that sends dead letters

One replay runs at a time: a later one stops it.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Final, Literal

import msgspec

from stream_app.domain.commands import MAX_TEXT_CHARACTERS, CommandAnswer
from stream_app.domain.dead_letter.causes import Filter, LetterKind, LetterSource
from stream_app.domain.delivery.state_machine import PAID_OR_SERVED, Delivery
from stream_app.domain.model.numbers import TimeMs, Whole
from stream_app.domain.model.outcome import scrub
from stream_app.domain.model.text import count
from stream_app.domain.model.untrusted import UNREADABLE, decode
from stream_app.domain.plan import Actor, InForce
from stream_app.domain.views.price import Quote, quote_lines, too_dear
from stream_app.domain.views.waits import RESUME_REPLAYS, replays_paused

Fate = Literal[
    "goes",  # it would be sent
    "as_input",  # refused for good, or another program's: it would begin a history of its own
    "suppressed",  # of a person on the suppression list
    "delivered",  # delivered to Clay since
    "ended",  # its history has ended otherwise since
    "under_way",  # it is on its way already
    "later_dead_letter",  # the lead has a later dead letter
    "may_be_at_clay",  # parked as uncertain: only with --uncertain
    "sent_back",  # an operator sent it back before
    "replaced",  # its lead was published again since
    "no_row",  # its row has expired: publish it as a new lead
    "waits_for_ask",  # refused for good: only when its disposition is asked for
    # its value is no lead that can be sent: unreadable, without an identity, too old, no
    # destination
    "cannot_go",
    "over_limit",  # it would be sent without --limit
]

FATE_MEANING: Final[dict[Fate, str]] = {
    # They follow a number, and read alike after 1 and after more.
    "goes": "would be sent to Clay",
    "as_input": "would be taken as new input",
    "suppressed": "of people on the suppression list (erased, or they objected): never sent",
    "delivered": "delivered since",
    "ended": "ended since (expired, suppressed or refused for good)",
    "under_way": "on the way already",
    "later_dead_letter": "with a later dead letter, which counts (perhaps in leads.parked)",
    "may_be_at_clay": "may have reached Clay: only with --uncertain",
    "sent_back": "sent back or given up before",
    "replaced": "replaced by a later publication",
    "no_row": "no longer known: publish again",
    "waits_for_ask": "refused for good: only with --disposition poison, policy or foreign",
    "cannot_go": (
        "impossible to send as is (no lead, no identity, too old, or no such destination)"
    ),
    "over_limit": "would go, too, but for --limit",
}


def fate(kind: LetterKind, seq: int, row: Delivery | None, *, uncertain: bool) -> Fate:
    """Return what would happen to a dead letter, by the rules of `state_machine.classify_record`.

    `row` is that of its lead. `uncertain`: the operator also wants leads that may have reached
    Clay.
    """
    if kind not in ("failed", "deferred"):
        return "as_input"
    if row is None:
        return "no_row"
    if row.state in PAID_OR_SERVED:
        return "delivered"
    if row.final:
        return "ended"
    if kind == "deferred":
        return "goes" if (row.state, row.seq) == ("deferred", seq) else "under_way"
    if row.state not in ("dead_lettered", "parked"):
        return "under_way"
    if row.state == "parked" and row.sends and not uncertain:
        return "may_be_at_clay"
    return "goes" if seq == row.seq else "later_dead_letter"


def can_be_given_up(kind: LetterKind, origin: str, seq: int, row: Delivery | None) -> Fate:
    """Return whether a dead letter can be given up (`goes`), or why not.

    It can as long as its lead, or its record, has come to nothing else since: to a later dead
    letter or a delivery.

    Args:
        kind: Its kind. A `foreign` one is on the topic of parked leads, because any other comes
            back by itself.
        origin: The input record that it is of.
        seq: The sequence number of the event with which it was written.
        row: The row of its lead; None: there is none, as for a record that is no lead.
    """
    if row is None:
        return "no_row" if kind == "failed" else "goes"
    if row.origin != origin:
        return "replaced"
    if row.state in PAID_OR_SERVED:
        return "delivered"
    if row.final and row.state != "rejected_invalid":
        return "ended"
    if row.state not in ("dead_lettered", "parked", "rejected_invalid"):
        return "under_way"
    return "goes" if seq == row.seq else "later_dead_letter"


def pace(policy: InForce, share: float, asked_per_s: float | None) -> float:
    """Return how many dead letters are sent back per second.

    It is the requested rate; without one, `share` of the lane's rate.
    """
    return asked_per_s or policy.rate.rate_per_s * share


class PricedPlan(msgspec.Struct):
    """The preview of a replay: what becomes of the selected dead letters, and at what price."""

    dead_letters: int  # how many dead letters were selected
    fates: Counter[Fate]  # how many there are of each fate
    causes: Counter[str]  # of those that would be sent, by reason and status
    quotes: list[Quote]  # by workspace
    paces: dict[str, float] = {}  # dead letters sent back per second, by workspace
    paused: Actor | None = None  # who has paused all replays; None if they are not paused

    @property
    def go(self) -> int:
        """How many would be published."""
        return self.fates["goes"] + self.fates["as_input"]

    @property
    def credits_at_most(self) -> int:
        """The cost of all in credits, at the ceilings."""
        return sum(part.credits_at_most for quoted in self.quotes for part in quoted.parts)

    @property
    def actions_at_most(self) -> int:
        """The cost of all in Actions, at the ceilings."""
        return sum(part.actions_at_most for quoted in self.quotes for part in quoted.parts)


def price_lines(priced: PricedPlan, rest: str) -> Iterator[str]:
    """Yield what a replay would cost, then what holds its dead letters after they are sent.

    `rest`: what becomes of dead letters beyond the budget.
    """
    yield from quote_lines(priced.quotes, rest, "the rate of replays")
    if priced.go and priced.paused is not None:
        yield (
            f"{replays_paused(priced.paused)}; what is sent by hand goes all the same, and comes "
            f"back after a failure or a deferral only after: {RESUME_REPLAYS}"
        )


PLAN_LIFE_MS: Final = 10 * 60_000  # how long a plan may be sent: prices and dead letters change
MAX_GIVEN_UP: Final = 1_000  # dead letters in one command to give them up: it is one transaction
MAX_REFUSALS: Final = 200  # refused dead letters that are kept with their reason; all are counted
PAUSE: Final = b"pause"
COMMAND: Final = b"command/"
PROGRESS: Final = b"replay/"
_MAX_ID_CHARACTERS: Final = 64
_LAST_COMMANDS: Final = 20

ReplayPhase = Literal["running", "stopped", "done", "refused"]
ENDED_PHASES: Final[frozenset[ReplayPhase]] = frozenset({"done", "refused"})


class ReplayPlan(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an operator has seen and orders.

    Attributes:
        planned_at_ms: When it was planned, epoch ms. It expires after 10 minutes.
        source: The topic.
        filter: Which dead letters.
        ends: Partition -> the offset after the last dead letter that was planned. Later ones are
            not sent.
        dead_letters: How many to send at most.
        credits: Refuse if they may cost more credits, at the ceiling of each destination.
        actions: As `credits`, in Actions.
        uncertain: Include leads that may have reached Clay.
        rate_per_s: Dead letters per second and workspace; None: replay.rate_share of the lane's
            rate.
        over_budget: Send even if it costs more than the budget has left.
    """

    planned_at_ms: TimeMs
    source: LetterSource
    filter: Filter
    ends: dict[Whole, Whole]
    dead_letters: Whole
    credits: Whole
    actions: Whole
    uncertain: bool = False
    rate_per_s: Annotated[float, msgspec.Meta(ge=0.001, le=100_000)] | None = None
    over_budget: bool = False


class ReplayCommand(msgspec.Struct, frozen=True, omit_defaults=True):
    """An operator's command to the replay process.

    It is on `stream-app-replay-state`, keyed by `command/<id>`, in partition 0.

    Attributes:
        id: Chosen by the sender, at most 64 characters. A command that arrives twice is applied
            once.
        kind: `start`, `stop` or `resume` a replay; or `give_up` dead letters.
        replay: The id of the replay. Of `start` and `give_up`: the same as `id`.
        at_ms: When it was submitted, epoch ms.
        who: The operator.
        why: The reason.
        plan: Of `start`: what to send.
        dead_letters: Of `give_up`: their places on Kafka (`topic/partition/offset`), at most 1,000.
    """

    id: str
    kind: Literal["start", "stop", "resume", "give_up"]
    replay: str
    at_ms: TimeMs
    who: str
    why: str = ""
    plan: ReplayPlan | None = None
    dead_letters: Annotated[tuple[str, ...], msgspec.Meta(max_length=MAX_GIVEN_UP)] = ()


class ReplayProgress(msgspec.Struct, frozen=True, omit_defaults=True):
    """A replay that an operator ordered.

    It is on `stream-app-replay-state`, keyed by `replay/<id>`, in partition 0. The topic is
    compacted: the last value of a key counts.

    Attributes:
        at_ms: When it was ordered, epoch ms.
        updated_at_ms: When this was written, epoch ms.
        total: How many dead letters are sent or refused in all; 0 until they are counted.
        sent: How many were sent back.
        refused: How many were refused.
        refusals: Record id -> why, of the first 200.
        next: Partition -> the offset of the next dead letter.
        credits: What the dead letters were expected to cost in credits when it began.
        text: What happened last, in words.
        by: Who stopped or resumed it last.
        commands: The ids of the last commands that were applied.
    """

    id: str
    state: ReplayPhase
    who: str
    why: str
    at_ms: TimeMs
    plan: ReplayPlan
    updated_at_ms: TimeMs = 0
    total: Whole = 0
    sent: Whole = 0
    refused: Whole = 0
    refusals: dict[str, str] = {}
    next: dict[Whole, Whole] = {}
    credits: Whole = 0
    text: str = ""
    by: Actor | None = None
    commands: tuple[str, ...] = ()

    @property
    def left(self) -> int:
        """How many may still be sent."""
        return self.plan.dead_letters - self.sent - self.refused


class ReplayPause(Actor, frozen=True):
    """An operator's pause of all replays."""

    who: str = msgspec.field(name="by")


class Effect(msgspec.Struct, frozen=True):
    """The effect of one command, to be written in one transaction.

    Attributes:
        rows: Rows of the replay state.
        answer: The answer for the audit.
        given_up: Places of dead letters whose ends are written with it.
    """

    rows: dict[bytes, bytes | None]
    answer: CommandAnswer
    given_up: tuple[str, ...] = ()


_AUDITED: Final = {"start": "replay", "give_up": "give_up"}
"""Kinds of commands that are about no earlier replay, with their names in the audit."""
_command: Final = msgspec.json.Decoder(ReplayCommand)
_progress: Final = msgspec.json.Decoder(ReplayProgress)
_pause: Final = msgspec.json.Decoder(ReplayPause)
_json: Final = msgspec.json.Encoder()


def command_row(command: ReplayCommand) -> tuple[bytes, bytes]:
    """Return key and value of a command's row."""
    return COMMAND + command.id.encode(), _json.encode(command)


def read_pause(value: bytes | None) -> ReplayPause | None:
    """Return the pause in the row `PAUSE` of the replay state; None: replays run.

    A row that cannot be read pauses, too, because only the deletion of the row resumes.
    """
    if not value:
        return None
    try:
        return decode(_pause, value)
    except UNREADABLE:
        return ReplayPause(
            "an order that this version cannot read",
            "stream-app replay resume ends it",
            0,
        )


def progress_row(progress: ReplayProgress) -> tuple[bytes, bytes]:
    """Return key and value of a replay's row."""
    return PROGRESS + progress.id.encode(), _json.encode(progress)


def read_progress(key: bytes | None, value: bytes | None) -> ReplayProgress | None:
    """Return the progress in a row of the replay state.

    It is None if the row is another one, a deletion, or unreadable.
    """
    if not (key or b"").startswith(PROGRESS):
        return None
    try:
        return decode(_progress, value)
    except ValueError:
        return None


class ReplayOrders:
    """The rows of all ordered replays, in the order in which they were written."""

    def __init__(self, rows: Iterable[tuple[bytes, bytes | None]] = ()) -> None:
        self.replays: dict[str, ReplayProgress] = {}  # by id
        # By the key of the row; None if it cannot be read.
        self.commands: dict[bytes, ReplayCommand | None] = {}
        for key, value in rows:
            self.apply(key, value)

    def apply(self, key: bytes, value: bytes | None) -> None:
        """Apply a row; rows of other kinds are ignored."""
        if key.startswith(COMMAND):
            self.commands.pop(key, None)
            if value is not None:
                self.commands[key] = _decoded(value)
        elif key.startswith(PROGRESS):
            progress = read_progress(key, value)
            if progress is not None:
                self.replays[progress.id] = progress
            else:  # deleted, or of a newer version
                self.replays.pop(key.removeprefix(PROGRESS).decode("utf-8", "replace"), None)

    @property
    def running(self) -> ReplayProgress | None:
        """The replay that is to be carried out."""
        return next((replay for replay in self.replays.values() if replay.state == "running"), None)

    @property
    def pending(self) -> bool:
        """True if there is work: a command to apply, or a replay to carry out."""
        return self.running is not None or bool(self.commands)

    def outlived(self, oldest_ms: int) -> list[bytes]:
        """Return the keys of ended replays that are older than `oldest_ms`."""
        return [
            PROGRESS + replay.id.encode()
            for replay in self.replays.values()
            if replay.state != "running" and replay.updated_at_ms < oldest_ms
        ]

    def next_step(self, now_ms: int) -> Effect | None:
        """Return the effect of the first command that was not applied yet; None: all were."""
        if not self.commands:
            return None
        key, command = next(iter(self.commands.items()))
        if command is None:
            name = key.removeprefix(COMMAND).decode("utf-8", "replace")[:_MAX_ID_CHARACTERS]
            text = "this is no command that this version knows"
            return Effect(
                {key: None},
                CommandAnswer(name, False, now_ms, 0, "replay", reason="unreadable", text=text),
            )
        command = msgspec.structs.replace(command, why=scrub(command.why, MAX_TEXT_CHARACTERS))
        changed, reason, text = self._effect(command, now_ms)
        kind = _AUDITED.get(command.kind) or f"replay_{command.kind}"
        rows: dict[bytes, bytes | None] = {**dict(map(progress_row, changed)), key: None}
        who = command.who
        why = command.why
        at_ms = command.at_ms
        answer = CommandAnswer(
            command.id,
            not reason,
            now_ms,
            0,
            kind,
            "",
            who,
            why,
            at_ms,
            reason,
            text,
        )
        return Effect(rows, answer, command.dead_letters if command.kind == "give_up" else ())

    def _effect(self, command: ReplayCommand, now_ms: int) -> tuple[list[ReplayProgress], str, str]:
        """Return the changed replays, a code if nothing was changed, and the outcome in words."""
        replay = self.replays.get(command.replay)
        by = Actor(command.who, command.why, command.at_ms)
        if command.kind == "start":
            return self._started(command, replay, by, now_ms)
        if command.kind == "give_up":
            return [], "", ""
        if replay is None:
            return [], "unknown", f"there is no replay {command.replay}"
        if command.id in replay.commands:
            return [], "repeated", "this command was applied before"
        wanted: ReplayPhase = "stopped" if command.kind == "stop" else "running"
        if replay.state in ENDED_PHASES or replay.state == wanted:
            return [], "no_change", f"replay {replay.id} is {replay.state} already"
        verb = "stopped" if command.kind == "stop" else "resumed"
        text = (
            f"{verb} after {replay.sent:,} of {count(replay.total, 'dead letter')} by {command.who}"
        )
        commands = (*replay.commands, command.id)[-_LAST_COMMANDS:]
        changed = _changed(replay, now_ms, state=wanted, text=text, by=by, commands=commands)
        if wanted == "stopped":
            return [changed], "", text
        # The price is checked again, as at the start.
        return [*self._superseded(by, now_ms), msgspec.structs.replace(changed, total=0)], "", text

    def _started(
        self,
        command: ReplayCommand,
        replay: ReplayProgress | None,
        by: Actor,
        now_ms: int,
    ) -> tuple[list[ReplayProgress], str, str]:
        plan = command.plan
        if replay is not None:
            return [], "repeated", "this replay was ordered before"
        if plan is None:
            return [], "unreadable", "a replay needs its plan"
        ordered = ReplayProgress(
            command.id,
            "running",
            command.who,
            command.why,
            command.at_ms,
            plan,
            now_ms,
        )
        if not -PLAN_LIFE_MS <= now_ms - plan.planned_at_ms <= PLAN_LIFE_MS:
            text = f"the plan is older than {PLAN_LIFE_MS // 60_000} minutes: plan again"
            return [_changed(ordered, now_ms, state="refused", text=text)], "expired", text
        text = (
            f"sends {count(plan.dead_letters, 'dead letter')} for up to "
            f"{count(plan.credits, 'credit')}"
        )
        return [*self._superseded(by, now_ms), ordered], "", text

    def _superseded(self, by: Actor, now_ms: int) -> list[ReplayProgress]:
        return [
            _changed(
                replay,
                now_ms,
                state="stopped",
                by=by,
                text="another operator has started to send dead letters back, so this one ended "
                "after "
                f"{replay.sent:,}. Wait for theirs, then repeat or resume this one if "
                "needed: nothing is sent twice",
            )
            for replay in self.replays.values()
            if replay.state == "running"
        ]


def begun(replay: ReplayProgress, priced: PricedPlan, now_ms: int) -> ReplayProgress:
    """Return a replay with its dead letters counted, or the reason why it does not begin.

    A replay that may not begin is refused at its start, and stopped if it was resumed. `priced` has
    the dead letters that it has still to send.
    """
    text = _not_to_be_sent(replay, priced)
    if text:
        return given_up(replay, text, now_ms)
    total = replay.sent + replay.refused + priced.go
    credits = replay.credits or sum(quoted.credits for quoted in priced.quotes)
    if not priced.go:
        return finished(_changed(replay, now_ms, total=total), now_ms)
    return _changed(replay, now_ms, total=total, credits=credits)


def given_up(replay: ReplayProgress, text: str, now_ms: int) -> ReplayProgress:
    """Return a replay that cannot go on: refused if nothing was sent yet, else stopped."""
    state: ReplayPhase = "stopped" if replay.sent or replay.refused else "refused"
    return _changed(replay, now_ms, state=state, text=text)


def finished(replay: ReplayProgress, now_ms: int) -> ReplayProgress:
    """Return a replay whose dead letters were all read."""
    gone = replay.total - replay.sent - replay.refused
    text = (
        f"{count(replay.sent, 'dead letter was', 'dead letters were')} sent back, "
        f"{replay.refused:,} refused"
    ) + (f", {gone:,} no longer need sending or are no longer kept" if gone > 0 else "")
    return _changed(replay, now_ms, state="done", text=text)


def advanced(
    replay: ReplayProgress,
    sent: int,
    refusals: dict[str, str],
    next_offsets: dict[int, int],
    now_ms: int,
) -> ReplayProgress:
    """Return a replay after more dead letters were sent or refused.

    `refusals`: record id -> why. `next_offsets`: partition -> the offset after the last of them.
    """
    return _changed(
        replay,
        now_ms,
        sent=replay.sent + sent,
        refused=replay.refused + len(refusals),
        refusals=dict(list((replay.refusals | refusals).items())[:MAX_REFUSALS]),
        next=replay.next | next_offsets,
    )


def _not_to_be_sent(replay: ReplayProgress, priced: PricedPlan) -> str:
    plan = replay.plan
    if not priced.go and not (replay.sent or replay.refused):
        return (
            "nothing to send back: no dead letter matches, or all were sent or delivered meanwhile"
        )
    if not plan.over_budget and (dear := too_dear(priced.quotes)):
        return "; ".join(dear)
    credits = priced.credits_at_most
    actions = priced.actions_at_most
    if credits > plan.credits or actions > plan.actions:
        return (
            f"they may now cost up to {count(credits, 'credit')} and "
            f"{count(actions, 'action')}, and the plan allows "
            f"{plan.credits:,} and {plan.actions:,}: plan again"
        )
    return ""


def _changed(replay: ReplayProgress, now_ms: int, **changes: Any) -> ReplayProgress:
    return msgspec.structs.replace(replay, updated_at_ms=now_ms, **changes)


def _decoded(value: bytes) -> ReplayCommand | None:
    try:
        command = decode(_command, value)
    except ValueError:
        return None
    fits = (
        0 < len(command.id) <= _MAX_ID_CHARACTERS
        and 0 < len(command.replay) <= _MAX_ID_CHARACTERS
        and len(command.who) <= _MAX_ID_CHARACTERS
    )
    if command.kind in _AUDITED:
        fits = fits and command.id == command.replay
    if command.kind == "give_up":
        fits = fits and bool(command.dead_letters)
    return command if fits else None
