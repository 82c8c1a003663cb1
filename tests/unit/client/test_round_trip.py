"""The round trip with the parts that it asks: what it does in which case, and what it says."""

import asyncio
from collections.abc import AsyncGenerator, Collection
from typing import Any, Self
from unittest.mock import Mock

import msgspec
import pytest

from stream_app.client.doctor import round_trip as module
from stream_app.client.doctor.round_trip import RoundTrip, price, round_trip, round_trip_lead
from stream_app.client.lanes.commands import SentCommand
from stream_app.client.publish.leads import Refusal
from stream_app.clock import Clock
from stream_app.config import Kafka, Settings
from stream_app.domain.commands import Command, CommandAnswer
from stream_app.domain.lead.identity import identify
from stream_app.domain.model.addresses import DestinationKind
from stream_app.domain.model.errors import BrokerUnavailable, SettingsError, StreamAppError
from stream_app.domain.model.messages import Lead, Status, StatusEvent
from stream_app.domain.plan import Destination, Workspace
from tests.support.kafka import until

SETTINGS = Settings(
    kafka=Kafka(partitions=4, replication=1),
    workspaces={"acme": Workspace("acme", partition=3)},
    destinations={
        "people": Destination("people", "acme", webhooks_env=("A",), estimate_credits=7),
    },
)


class System:
    """A line that reports `steps` of the test lead and then nothing more, unless it `breaks`."""

    def __init__(self, *steps: tuple[Status, str, str], breaks: bool = False) -> None:
        self._steps = steps
        self._breaks = breaks
        self.followed: list[int] = []
        self.leads: list[Lead] = []
        self.cancels: list[tuple[Any, ...]] = []
        self.refuses = False
        self.answers: dict[int, CommandAnswer | None] = {3: None}
        self.cannot_cancel = False
        self.listens = False
        self.said_all = False
        self.settings = SETTINGS

    def __call__(self, connection: object, topic: str, partitions: Collection[int]) -> Self:
        assert topic == SETTINGS.names.status
        self.followed = list(partitions)
        return self

    async def __aenter__(self) -> Self:
        self.listens = True
        return self

    async def __aexit__(self, *_: object) -> None:
        self.listens = False

    async def events(self, lead_ids: list[str]) -> AsyncGenerator[StatusEvent]:
        assert lead_ids == [lead.lead_id for lead in self.leads]
        for seq, (status, reason, text) in enumerate(self._steps, 1):
            yield StatusEvent(
                f"o#{seq}",
                lead_ids[0],
                status,
                seq,
                1,
                "o",
                "acme",
                reason=reason,
                text=text,
            )
        if self._breaks:
            raise BrokerUnavailable("the broker is away")
        self.said_all = True
        await asyncio.sleep(3_600)

    async def publish(self, leads: list[Lead], settings: Settings, *, on_refused: Any) -> None:
        assert settings is self.settings
        assert self.listens, "else the lead could be over before anybody follows it"
        self.leads = leads
        if self.refuses:
            on_refused(Refusal(1, "bad_email", "it has no e-mail"))

    async def submit(self, settings: Settings, *args: Any, **more: Any) -> SentCommand:
        assert settings is self.settings
        assert more["wait_s"] == module._CANCELLED_WITHIN_S
        assert more["say"]("Kafka is away") is None
        self.cancels.append(args)
        if self.cannot_cancel:
            raise StreamAppError("Kafka is away")
        command = Command("c-1", "cancel_lead", "acme", 1, "jane", "w")
        return SentCommand(command, self.answers)


async def trip(
    monkeypatch: pytest.MonkeyPatch,
    system: System,
    told: list[str] | None = None,
    events: list[Status] | None = None,
    within_s: float = 0.05,
    settings: Settings = SETTINGS,
) -> RoundTrip:
    system.settings = settings
    monkeypatch.setattr(module, "StatusFollower", system)
    monkeypatch.setattr(module, "publish", system.publish)
    monkeypatch.setattr(module, "submit", system.submit)
    return await round_trip(
        settings,
        "people",
        18,
        within_s,
        "jane",
        on_event=lambda event: None if events is None else events.append(event.status),
        say=lambda text: None if told is None else told.append(text),
    )


CANCEL = ("cancel_lead", "acme", {"lead_id": "doctor-18"}, "jane", "its round trip failed")
NO_ANSWER = (
    "The test lead is cancelled before a worker sends it: no worker has confirmed the command yet"
)


@pytest.mark.parametrize(
    ("steps", "says", "is_cancelled"),
    [
        ([], "no worker processed it, nothing more within 0.05 s: does `stream-app worker`", True),
        ([("received", "", "")], "its last status is received (in progress), nothing more", True),
        ([("held_budget", "budget", "")], "its last status is held_budget (budget), not", True),
        ([("held_budget", "budget", "spent")], "its last status is held_budget (spent), no", True),
        ([("accepted", "", "")], "Clay has it (accepted), and no callback came, not", False),
        ([("callback_overdue", "", "")], "Clay has it (callback_overdue), and no callb", False),
        ([("credits_exhausted_suspected", "", "")], "its last status is credits_exhau", False),
        ([("send_uncertain", "", "")], "Clay has it (send_uncertain), and no callback came", True),
        ([("expired", "", "")], "it ended as expired: no reason given", False),
        ([("suppressed", "list", "")], "it ended as suppressed: list", False),
        ([("dead_lettered", "http_500", "broken")], "it ended as dead_lettered: broken", True),
        ([("parked", "", "by hand")], "it ended as parked: by hand", True),
    ],
)
async def test_without_a_callback_it_says_why_and_cancels_what_clay_does_not_have(
    monkeypatch: pytest.MonkeyPatch,
    steps: list[tuple[Status, str, str]],
    says: str,
    *,
    is_cancelled: bool,
) -> None:
    system = System(*steps)
    went = await trip(monkeypatch, system)
    assert not went.ok
    assert went.lead_id == "doctor-18"
    assert went.text.startswith(says.removesuffix("not").removesuffix("no"))
    assert system.cancels == ([CANCEL] if is_cancelled else [])
    assert went.text.endswith(f". {NO_ANSWER}") is is_cancelled
    assert system.followed == [3], "the partition of its workspace only"


@pytest.mark.parametrize(
    ("kind", "awaited"),
    [
        ("table", "its callback"),
        ("workflow", "its callback"),
        ("routine", "the result of its run, which is first asked for 20 s after the POST"),
    ],
)
async def test_once_clay_has_it_one_line_says_what_it_waits_for_and_until_when(
    monkeypatch: pytest.MonkeyPatch,
    kind: DestinationKind,
    awaited: str,
) -> None:
    monkeypatch.setattr(module, "Clock", lambda: Mock(now_ms=lambda: 1_796_083_200_000))
    people = msgspec.structs.replace(SETTINGS.destinations["people"], kind=kind)
    settings = msgspec.structs.replace(SETTINGS, destinations={"people": people})
    steps: list[tuple[Status, str, str]] = [("sending", "", ""), ("accepted", "", "")]
    told: list[str] = []
    system = System(*steps, ("accepted", "", ""), ("enriched", "", ""))
    went = await trip(monkeypatch, system, told, within_s=300, settings=settings)
    assert went.ok
    assert told == [f"Clay has it: waiting until 2026-12-01 00:05:00 UTC for {awaited}"]
    told.clear()
    await trip(monkeypatch, System(("sending", "", ""), ("parked", "", "")), told)
    assert told == [], "Clay does not have it"


@pytest.mark.parametrize("status", ["enriched", "partial", "no_data", "enrich_error"])
async def test_a_callback_ends_it_at_once(monkeypatch: pytest.MonkeyPatch, status: Status) -> None:
    """Also one that brings no data shows that the line works."""
    system = System(("accepted", "", ""), (status, "", ""), ("parked", "", "never read"))
    seen: list[Status] = []
    went = await trip(monkeypatch, system, events=seen)
    assert went == RoundTrip("doctor-18", ok=True, text=f"it came back as {status}")
    assert seen == ["accepted", status]
    assert system.cancels == []


async def test_the_answer_of_a_worker_says_that_the_lead_will_not_be_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    system = System(("received", "", ""))
    system.answers = {3: CommandAnswer("c-1", True, 1, 3)}
    went = await trip(monkeypatch, system)
    assert went.text.endswith("The test lead is cancelled: it will not be sent")
    system.answers = {3: CommandAnswer("c-1", False, 1, 3)}
    assert (await trip(monkeypatch, system)).text.endswith(NO_ANSWER)


async def test_a_lead_that_cannot_be_cancelled_is_left_to_the_operator(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    system = System()
    system.cannot_cancel = True
    went = await trip(monkeypatch, system)
    assert "It could not be cancelled (Kafka is away)" in went.text
    by_hand = 'stream-app lanes cancel acme --lead doctor-18 --why "its round trip failed"'
    assert went.text.endswith(f"Cancel it with: {by_hand}")


@pytest.mark.parametrize(
    ("steps", "is_cancelled"),
    [([], True), ([("sending", "", "")], True), ([("accepted", "", "")], False)],
)
async def test_a_broker_that_goes_away_leaves_no_lead_behind(
    monkeypatch: pytest.MonkeyPatch,
    steps: list[tuple[Status, str, str]],
    *,
    is_cancelled: bool,
) -> None:
    told: list[str] = []
    system = System(*steps, breaks=True)
    with pytest.raises(BrokerUnavailable, match="the broker is away"):
        await trip(monkeypatch, system, told)
    assert system.cancels == ([CANCEL] if is_cancelled else [])
    ends = [text for text in told if not text.startswith("Clay has it: waiting until ")]
    assert ends == ([NO_ANSWER] if is_cancelled else [])


async def test_a_refused_lead_is_told_and_not_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    system = System(("enriched", "", ""))
    system.refuses = True
    with pytest.raises(StreamAppError, match="the test lead was refused: it has no e-mail"):
        await trip(monkeypatch, system)
    assert system.cancels == []


async def test_the_test_lead_is_nobody_and_is_not_sent_a_minute_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before_ms = Clock().now_ms()
    system = System(("enriched", "", ""))
    await trip(monkeypatch, system)
    (lead,) = system.leads
    assert lead.workspace == "acme"
    assert lead.destination == "people"
    assert lead.source == "doctor"
    assert lead.fields["email"] == "doctor-18@example.com", "a domain that nobody can have"
    assert lead.not_after_ms is not None
    assert before_ms + 60_050 <= lead.not_after_ms <= Clock().now_ms() + 60_050
    other = identify(round_trip_lead("people", "acme", 19, 5))
    own = identify(lead)
    assert own is not None
    assert other is not None
    assert set(own.people).isdisjoint(other.people), "each number is another person"


def test_the_test_lead_has_a_value_for_each_usual_field() -> None:
    assert round_trip_lead("people", "acme", 19, 5) == Lead(
        {
            "email": "doctor-19@example.com",
            "first_name": "Test",
            "last_name": "Lead 19",
            "full_name": "Test Lead 19",
            "company_name": "Example",
            "domain": "example.com",
            "linkedin_url": "https://www.linkedin.com/in/test-lead-19",
            "title": "Test",
            "phone": "+1 555 0100",
            "country": "US",
        },
        "doctor-19",
        "acme",
        "people",
        not_after_ms=5,
        source="doctor",
    )


async def test_an_operator_who_stops_it_leaves_no_lead_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With Ctrl-C, for instance."""
    told: list[str] = []
    system = System(("received", "", ""))
    going = asyncio.create_task(trip(monkeypatch, system, told, within_s=3_600))
    await until(lambda: system.said_all)
    going.cancel()
    with pytest.raises(asyncio.CancelledError):
        await going
    assert system.cancels == [CANCEL]
    assert told == [NO_ANSWER]


def test_the_price_names_all_that_a_test_costs() -> None:
    priced = Destination(
        "people",
        "acme",
        webhooks_env=("A",),
        estimate_credits=7,
        ceiling_credits=1_200,
        estimate_actions=1,
        ceiling_actions=4,
    )
    settings = msgspec.structs.replace(
        SETTINGS,
        destinations={"people": priced, "quiet": msgspec.structs.replace(priced, callbacks=False)},
    )
    assert price(settings, "people") == (
        "send one test lead to Clay through people, which costs about 7 credits and 1 action, at "
        "most 1,200 credits and 4 actions, takes one of the webhook's 50,000 submissions, and "
        "leaves its row in the table"
    )
    with pytest.raises(SettingsError) as error:
        price(settings, "quiet")
    assert str(error.value) == "destinations.quiet.callbacks is false: no callback can be awaited"
    with pytest.raises(SettingsError, match="person"):
        price(settings, "person")


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (
            "accepted",
            "Clay has it (accepted), and no callback came, nothing more within 0.05 s. Look at its "
            "row in the table: did the columns run (credits, auto-run), and what does the cell of "
            "the HTTP column say? Compare it with: stream-app clay-setup",
        ),
        (
            "credits_exhausted_suspected",
            "its last status is credits_exhausted_suspected (in progress), nothing more within "
            "0.05 s",
        ),
    ],
)
async def test_what_clay_has_is_told_with_where_to_look(
    monkeypatch: pytest.MonkeyPatch,
    status: Status,
    text: str,
) -> None:
    assert await trip(monkeypatch, System((status, "", ""))) == RoundTrip(
        "doctor-18",
        ok=False,
        text=text,
    )


@pytest.mark.parametrize("status", ["accepted", "callback_overdue"])
async def test_a_routine_that_has_not_finished_is_told_with_where_to_look(
    monkeypatch: pytest.MonkeyPatch,
    status: Status,
) -> None:
    people = Destination("people", "acme", kind="routine", routine="function:t_1")
    settings = msgspec.structs.replace(SETTINGS, destinations={"people": people})
    assert price(settings, "people").endswith(
        "20 credits and 5 actions, and leaves its run in Clay",
    )
    result = await trip(monkeypatch, System((status, "", "")), settings=settings)
    assert result.text == (
        f"Clay has it ({status}), and no result of its run came, nothing more within 0.05 s. A "
        "routine may take longer: give --within more seconds. Else look at its runs in Clay: do "
        "they finish, and has the output step a run condition? Compare it with: stream-app "
        "clay-setup"
    )
