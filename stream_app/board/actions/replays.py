"""Plan a replay, send it, stop and resume it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final, Literal, cast, get_args

import msgspec

from stream_app.board.access import PATH
from stream_app.board.actions.base import Action, Field, Form, FormRequest, Invalid, Submission
from stream_app.board.api_access import Refused
from stream_app.board.formats import amount
from stream_app.board.pages.replay import options_of
from stream_app.board.paths import replay_path
from stream_app.board.planner import Busy, Plan, Planner, Wanted
from stream_app.board.requests import LONGEST_WORD
from stream_app.board.site import Site
from stream_app.domain.dead_letter.causes import Filter, Kind, Source
from stream_app.domain.dead_letter.pricing import MEANING, Price, too_dear, too_dear_text
from stream_app.domain.text import count

_DEAD: Final = f"{PATH}/dead"
_SOURCES: Final[Sequence[tuple[Source, str]]] = (
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
_MEANING: Final = MEANING | {
    "may_be_at_clay": "may have reached Clay: plan again and choose to send them too",
    "waits_for_ask": "were refused for good: plan again with the disposition poison, policy or foreign",
    "over_limit": "would go, too, with a higher number in At most",
}
"""As `MEANING`, with the fields of the form where that names options of the command line."""
_OVER_BUDGET: Final = (("", "refuse"), ("yes", "send all: what the budget does not cover waits for the next one"))


class PlanView(msgspec.Struct, frozen=True):
    """What the page of a plan shows beside its form.

    Attributes:
        under_way: As of the plan; `share`: percent of the offsets that were read.
        command: The command line that does the same.
        expires_ms: When it can no longer be sent, epoch ms.
        left_out: Those that are not sent: how many, and why.
        dear: Why the budget does not cover it, by workspace.
    """

    plan: Plan
    under_way: bool
    share: float
    command: str
    expires_ms: int
    prices: Sequence[Price] = ()
    left_out: Sequence[tuple[int, str]] = ()
    causes: Sequence[tuple[str, int]] = ()
    dear: Sequence[str] = ()


def replay_actions(site: Site, planner: Planner) -> list[Action]:
    """Return the actions of the pages Dead letters, Plan and Replay."""
    changes: tuple[Literal["stop", "resume"], ...] = ("stop", "resume")
    return [
        Action("/dead/act/plan", partial(_ask, site), partial(_begin, planner), "dead"),
        Action("/dead/act/plan/{plan}", partial(_plan, planner), partial(_send, planner), "dead", template="plan"),
        *(
            Action(
                f"/replays/{{replay}}/act/{kind}", partial(_change, site, kind), partial(_apply, planner, kind), "dead"
            )
            for kind in changes
        ),
    ]


# ------------------------------------------------------------------------------------------------------------ plan


def _ask(site: Site, opened: FormRequest) -> Form:
    def given(name: str) -> str:
        return opened.query.get(name, "")[:LONGEST_WORD]

    source = given("from") if given("from") in get_args(Source) else "dlq"
    return Form(
        "Plan a replay",
        "Counts what can be sent back and what it costs. Nothing is sent.",
        "Plan",
        _DEAD,
        fields=(
            Field("from", "From", kind="choice", choices=_SOURCES, value=source),
            Field("kind", "Disposition", kind="choice", choices=_KINDS, value=given("kind")),
            Field("reason", "Reason", hint="such as http_503; empty: all", value=given("reason")),
            Field("workspace", "Workspace", hint="empty: all", value=given("workspace")),
            Field("destination", "Destination", hint="empty: all", value=given("destination")),
            Field("limit", "At most", kind="number", hint="dead letters; empty: all", most=9),
            Field("uncertain", "Leads that may have reached Clay", kind="choice", choices=_UNCERTAIN),
        ),
        asks_why=False,
    )


def _wanted(values: Mapping[str, str]) -> Wanted:
    def one(name: str) -> frozenset[str]:
        return frozenset({values[name]}) if values.get(name) else frozenset()

    limit = values.get("limit", "")
    if limit and not (limit.isascii() and limit.isdecimal() and int(limit)):
        raise Invalid({"limit": "Enter a whole number above 0"})
    wanted = Filter(
        reasons=one("reason"),
        workspaces=one("workspace"),
        destinations=one("destination"),
        kinds=cast("frozenset[Kind]", one("kind")),
    )
    source = cast(Source, values.get("from") or "dlq")
    return Wanted(source, wanted, values.get("uncertain") == "yes", int(limit) if limit else None)


async def _begin(planner: Planner, sent: Submission) -> str:
    return _began(planner, _wanted(sent.values), sent.who)


def _began(planner: Planner, wanted: Wanted, who: str) -> str:
    try:
        return f"{_DEAD}/act/plan/{planner.begin(wanted, who).id}"
    except Busy as busy:
        raise Invalid({"": f"A plan of {busy.plan.who} is being made here: try again when it is ready"}) from None


# ------------------------------------------------------------------------------------------------------------ send


def _found(planner: Planner, opened: FormRequest) -> Plan:
    plan = planner.find(opened.path["plan"])
    if plan is None:
        text = "This plan is older than 10 minutes, or the board was restarted: plan again on the page Dead letters"
        raise Refused(404, "plan_expired", text)
    return plan


def _plan(planner: Planner, opened: FormRequest) -> Form:
    plan = _found(planner, opened)
    wanted, priced = plan.wanted, plan.priced
    options = options_of(wanted.source, wanted.filter, uncertain=wanted.uncertain, limit=wanted.limit)
    share = round(plan.done / plan.total * 100, 1) if plan.total else 0.0
    view = PlanView(plan, plan.under_way, share, f"stream-app replay select {options}", plan.expires_ms)
    if plan.under_way:
        text = "Reads the dead letters and what became of their leads. Nothing is sent."
        return Form("Planning a replay", text, "Cancel", _DEAD, asks_why=False, more=view)
    if priced is None:
        text = f"There is no plan: {plan.problem}"
        return Form("No plan", text, "Plan again", _DEAD, asks_why=False, more=view)
    view = msgspec.structs.replace(
        view,
        prices=priced.prices,
        left_out=[
            (many, _MEANING[fate]) for fate, many in priced.fates.most_common() if fate not in ("goes", "as_input")
        ],
        causes=priced.causes.most_common(20),
        dear=[too_dear_text(each) for each in too_dear(priced.prices)],
    )
    matching = count(priced.dead_letters, "dead letter matches", "dead letters match")
    if not priced.go:
        text = f"{matching}, and none can be sent."
        return Form("Nothing to send back", text, "Plan again", _DEAD, asks_why=False, more=view)
    leads = count(priced.go, "dead letter")
    over = (Field("over_budget", "More than the budget has left", kind="choice", choices=_OVER_BUDGET),)
    return Form(
        f"Send {leads} back",
        f"{matching}. {priced.go:,} can be sent back, each once.",
        f"Send {leads} for up to {amount(priced.credits_at_most)} credits",
        _DEAD,
        fields=over if view.dear else (),
        more=view,
    )


async def _send(planner: Planner, sent: Submission) -> str:
    plan, view = _found(planner, sent.opened), cast(PlanView, sent.form.more)
    if view.under_way:
        await planner.give_up(plan)
        return _DEAD
    if plan.priced is None or not plan.priced.go:
        return _began(planner, plan.wanted, sent.who)
    over_budget = sent.values.get("over_budget") == "yes"
    if view.dear and not over_budget:
        raise Invalid({"over_budget": "; ".join(view.dear)})
    return replay_path(await planner.send(plan, sent.who, sent.why, over_budget=over_budget))


# -------------------------------------------------------------------------------------------------- stop and resume


def _change(site: Site, kind: Literal["stop", "resume"], opened: FormRequest) -> Form:
    replay = opened.path["replay"]
    found = site.queries.replay(replay)
    if found is None:
        raise Refused(404, "unknown_replay", "There is no such replay: the page Dead letters lists all")
    text = (
        "What was sent stays sent. The rest waits until it is resumed."
        if kind == "stop"
        else "The rest is sent. Its price is checked again first. A replay that runs now is stopped."
    )
    done = f"{found.sent:,} of {count(found.total or found.plan.dead_letters, 'dead letter')} are sent. "
    return Form(f"{kind.capitalize()} replay {replay}", done + text, f"{kind.capitalize()} it", replay_path(replay))


async def _apply(planner: Planner, kind: Literal["stop", "resume"], sent: Submission) -> str:
    replay = sent.opened.path["replay"]
    await planner.change(sent.id, kind, replay, sent.who, sent.why)
    return f"{replay_path(replay)}?asked={sent.id}"
