"""Commands on a partition with an in-memory Kafka: each is applied once, answered, and in effect
for later leads.
"""

import asyncio
import json
from collections.abc import Callable
from typing import Any, TypeVar
from unittest.mock import patch

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_app.domain.commands import MAX_PEOPLE, CommandResult
from stream_app.domain.lead.identity import people
from stream_app.domain.model.errors import BrokerUnavailable
from stream_app.domain.model.records import ConsumedRecord
from stream_app.domain.views.lane import LaneView
from stream_app.partition.in_flight import InFlight
from stream_app.partition.places import Limiter
from tests.simulation.client import MemoryStateStore, PlainLink
from tests.simulation.schedule import Setup
from tests.support.narrow import present
from tests.support.partition.bench import Bench
from tests.support.partition.virtual import run, virtual_time

T = TypeVar("T")

_HOUR_MS = 3_600_000


@virtual_time
async def test_a_pause_holds_every_lead_after_its_answer_until_a_resume() -> None:
    bench = await Bench.started(clay_takes_s=0.1)
    bench.publish("a", "p1")
    await asyncio.sleep(1.0)
    await bench.order("pause", "c1")
    bench.publish("b", "p2")
    await asyncio.sleep(30.0)
    assert len(bench.clay.bodies) == 1
    held = bench.events()[-1]
    assert held.status == "held_paused", "no time ends a pause"
    assert held.due_at_ms is None, "no time ends a pause"
    paused_by = present(bench.lane().pause)
    assert paused_by.who == "jane"
    assert paused_by.why == "because"
    await bench.order("resume", "c2", for_s=0.5)
    assert len(bench.clay.bodies) == 2
    first, second = bench.answers()
    assert first.id == "c1"
    assert first.applied is True
    assert first.who == "jane"
    assert first.why == "because"
    assert first.partition == 0
    assert first.lane is not None
    assert first.lane.holds == "paused"
    assert second.lane is not None
    assert second.lane.holds == ""


@virtual_time
async def test_a_live_budget_lets_the_lead_that_waits_go_at_once() -> None:
    bench = await Bench.started(Setup(credits_per_day=20))
    bench.publish("a", "p1")
    bench.publish("b", "p2")
    await asyncio.sleep(10.0)
    assert len(bench.clay.bodies) == 1
    await bench.order("budget", caps={"credits_per_day": 40}, for_s=0.2)
    assert len(bench.clay.bodies) == 2
    assert bench.answers()[0].text == "budget.credits_per_day: 20 -> 40"


@virtual_time
async def test_the_state_after_a_command_is_published_with_its_answer() -> None:
    """Also if nothing has changed, and if the lane was published a moment ago: a page shows both
    together.
    """
    bench = Bench(clay_takes_s=0.1)
    await bench.start()
    for number, kind in enumerate(("pause", "resume", "resume")):
        await bench.order(kind, f"c{number}", for_s=0.1)
    answers = bench.answers()
    views = [
        msgspec.json.decode(record.value or b"", type=LaneView)
        for record in bench.kafka.log(bench.plan.topics.lanes, 0).committed()
        if record.key == b"acme"
    ]
    assert [answer.applied for answer in answers] == [True] * 3
    for answer in answers:
        assert answer.at_ms in [view.at_ms for view in views], answer


@virtual_time
async def test_pending_commands_are_applied_before_the_first_lead() -> None:
    bench = Bench(clay_takes_s=0.1)
    bench.publish("a", "p1")
    bench.command("pause")
    await bench.start()
    await asyncio.sleep(60.0)
    assert bench.clay.bodies == []
    assert [answer.applied for answer in bench.answers()] == [True]


@virtual_time
async def test_a_kafka_that_is_away_at_first_delays_commands_and_the_leads_behind_them() -> None:
    bench = Bench(clay_takes_s=0.1)
    bench.publish("a", "p1")
    bench.command("pause")
    waiting = MemoryStateStore.waiting
    asked = 0

    async def away_at_first(
        self: MemoryStateStore,
        topic: str,
        offset: int,
        max_records: int,
    ) -> list[ConsumedRecord]:
        nonlocal asked
        asked += 1
        if asked <= 2:
            raise BrokerUnavailable("no broker answers")
        return await waiting(self, topic, offset, max_records)

    with patch.object(MemoryStateStore, "waiting", away_at_first):
        await bench.start()
        await asyncio.sleep(60.0)
    assert asked == 4, "the commands until they could be read, then the callbacks"
    assert bench.clay.bodies == []
    assert [answer.applied for answer in bench.answers()] == [True]


@virtual_time
async def test_bootstrap_skips_commands_that_were_passed_meanwhile() -> None:
    """Faust delivers the same commands: the one ahead drops the mark by which the other one would
    know.
    """
    bench = await Bench.started(clay_takes_s=0.1)
    first = bench.command("pause", "c1")
    await asyncio.sleep(5.0)  # its offset is committed
    await bench.order("resume", "c2")
    assert bench.partition.state.rows.marker(first.record_id) is None
    await bench.partition.runner._pipelines["command"](
        InFlight(first, "command", asyncio.Event(), Limiter(1)),
    )
    await asyncio.sleep(1.0)
    assert [answer.id for answer in bench.answers()] == ["c1", "c2"]


@pytest.mark.parametrize(
    ("value", "reason", "says"),
    [
        (None, "unreadable", "truncated"),
        (b"\xff", "unreadable", "no command"),
        (
            b'{"id": "x", "kind": "explode", "workspace": "acme", "at_ms": 1, "who": "j"}',
            "unreadable",
            "enum",
        ),
        (
            b'{"id": "", "kind": "pause", "workspace": "acme", "at_ms": 1, "who": "j"}',
            "unreadable",
            "id must have",
        ),
        (b'{"id": "x", "kind": "pause", "at_ms": 1, "who": "j"}', "unreadable", "workspace"),
        (b"[" * 100_000, "unreadable", "no command"),
    ],
)
@virtual_time
async def test_an_invalid_command_is_answered(value: bytes | None, reason: str, says: str) -> None:
    bench = await Bench.started(clay_takes_s=0.1)
    bench.put(bench.plan.topics.commands, value)
    await bench.order("pause", "after")
    bad, good = bench.answers()
    assert bad.applied is False
    assert bad.reason == reason
    assert says in bad.text
    assert bad.id in ("x", "leads.commands/0/0")
    assert good.applied


@pytest.mark.parametrize(
    ("kind", "changes", "reason", "says"),
    [
        ("pause", {"age_ms": 25 * _HOUR_MS}, "command_expired", "24 h"),
        ("pause", {"workspace": "unknown"}, "unknown_workspace", "no such workspace"),
        ("pause", {"workspace": "beta"}, "wrong_partition", "lives in partition 1"),
        (
            "budget",
            {"caps": {"credits_per_day": 10, "credits_per_month": 5}},
            "refused",
            "must not be above",
        ),
        ("budget", {"caps": {"credits_per_week": 10}}, "bad_arguments", "caps"),
        ("budget", {"caps": {"credits_per_day": "lots"}}, "bad_arguments", "caps"),
        ("rate", {"rate_per_s": 1e9}, "bad_arguments", "rate_per_s"),
        ("quota", {}, "bad_arguments", "webhook_id"),
        ("quota", {"webhook_id": "unknown", "use": True}, "refused", "no webhook"),
        ("budget", {}, "bad_arguments", "name something to change"),
        ("cancel_lead", {}, "bad_arguments", "lead_id"),
        ("cancel_import", {"import_id": ""}, "bad_arguments", "import_id"),
        ("suppress", {"people": []}, "bad_arguments", "people"),
        ("suppress", {"people": ["ada@example.com"]}, "bad_arguments", "people"),
        ("suppress", {"people": ["x" * 22] * (MAX_PEOPLE + 1)}, "bad_arguments", "people"),
    ],
)
@virtual_time
async def test_a_command_that_cannot_be_applied_is_refused(
    kind: str,
    changes: Any,
    reason: str,
    says: str,
) -> None:
    bench = await Bench.started(clay_takes_s=0.1)
    await bench.order(kind, **changes)
    (answer,) = bench.answers()
    assert answer.applied is False
    assert answer.reason == reason
    assert says in answer.text
    assert "ada@" not in answer.text


@virtual_time
async def test_a_repeated_command_is_applied_once_and_both_are_answered() -> None:
    bench = await Bench.started(clay_takes_s=0.1)
    bench.command("correct", "c1", credits=5)
    await bench.order("correct", "c1", credits=5)
    first, second = bench.answers()
    assert first.applied
    assert second.applied is False
    assert second.reason == "repeated"
    assert bench.lane().budget.months[-1].credits_elsewhere == 5


@virtual_time
async def test_a_cancelled_lead_ends_where_it_waits_and_may_be_published_again() -> None:
    bench = await Bench.started(clay_takes_s=0.1)
    await bench.order("pause", "c1")
    bench.publish("a", "p1")  # it waits for admission
    bench.publish("b", "p2", import_id="list")  # and this one behind it
    await asyncio.sleep(5.0)
    bench.command("cancel_lead", "c2", lead_id="a")
    await bench.order("cancel_import", "c3", import_id="list", for_s=5.0)
    assert [state for state in bench.states() if state == "suppressed"] == ["suppressed"] * 2
    bench.publish("a", "p1")
    bench.publish("b", "p2", import_id="list")
    await bench.order("resume", "c4", for_s=5.0)
    assert [json.loads(body)["email"] for body in bench.clay.bodies] == [
        "p1@example.com",
        "p2@example.com",
    ]
    assert bench.states()[-1] == "accepted"


@virtual_time
async def test_a_suppressed_person_is_not_sent_by_id_or_force_until_taken_off_the_list() -> None:
    bench = Bench(clay_takes_s=0.1)
    (ada,) = people({"email": "Ada@Example.com"})
    await bench.start()
    await bench.order("suppress", "c1", workspace="", people=[ada])
    bench.publish("a", "ada")
    bench.publish("other", "ada", force=True)
    known = {"email": "ada@example.com", "linkedin_url": "linkedin.com/in/ada"}
    bench.publish("c", "-", fields=known)  # known by another identity first
    bench.publish("d", "grace")
    await asyncio.sleep(5.0)
    assert len(bench.clay.bodies) == 1
    await bench.kill()
    await bench.start()
    bench.publish("a", "ada")
    await asyncio.sleep(5.0)
    assert len(bench.clay.bodies) == 1
    await bench.order("unsuppress", "c2", workspace="", people=[ada])
    bench.publish("a", "ada")
    await asyncio.sleep(5.0)
    assert len(bench.clay.bodies) == 2
    assert [answer.text for answer in bench.answers()] == [
        "1 person is on the suppression list now, 0 were already",
        "1 person is off the suppression list",
    ]


def test_a_lead_whose_turn_comes_while_the_suppression_is_committed_is_not_sent() -> None:
    """It was let through in between: the list in Kafka had the person, and then came the
    write-ahead.
    """

    class SlowCommit(PlainLink):
        async def ask(self, what: str, request: Callable[[], T]) -> T:
            await asyncio.sleep(1.0 if what == "commit" else 0.0)
            return await super().ask(what, request)

    async def main() -> None:
        bench = Bench(clay_takes_s=0.1)
        (ada,) = people({"email": "Ada@Example.com"})
        await bench.start()
        bench.store._link = SlowCommit()
        bench.publish("a", "ada")
        # it waits for admission for the first token, 125 ms after the take-over
        await asyncio.sleep(0.05)
        await bench.order("suppress", "c1", workspace="", people=[ada], for_s=10.0)
        assert bench.states() == ["received", "suppressed"]
        assert bench.clay.bodies == []

    run(main())


@virtual_time
async def test_reload_reads_the_configuration_once_a_command() -> None:
    bench = await Bench.started(clay_takes_s=0.1)
    await bench.order("reload", workspace="")
    assert bench.reloads == 1
    assert bench.answers()[0].text == "read"


class ReloadsSlowly(Bench):
    """A partition whose worker takes two seconds to read its configuration."""

    async def _reload(self, name: str) -> CommandResult:
        result = await super()._reload(name)
        await asyncio.sleep(2.0)
        return result


@virtual_time
async def test_a_reload_that_the_bootstrap_and_the_stream_have_at_a_time_is_answered_once() -> None:
    bench = ReloadsSlowly()
    bench.command("reload", workspace="")
    await bench.serve()
    await asyncio.sleep(5.0)
    assert bench.reloads == 2, "both have read the command"
    assert len(bench.answers()) == 1
    assert bench.streams["command"].committed() == 1


_ASKED = st.tuples(
    st.sampled_from(("pause", "resume", "trip", "auto", "correct", "suppress", "cancel_lead")),
    st.integers(0, 5),
)
_HAPPENS = st.one_of(
    _ASKED,
    st.tuples(st.just("kill"), st.sampled_from((0.0, 0.001, 0.004, 0.006, 0.01, 0.3))),
    st.tuples(st.just("wait"), st.sampled_from((0.001, 0.02, 1.0))),
)


@given(st.lists(_HAPPENS, min_size=1, max_size=14))
def test_each_command_is_applied_once_and_every_record_is_answered(happens: list[Any]) -> None:
    """A command corrects by a power of 7 of its own, so the sum in the lane says which were booked,
    and how often.
    """
    arguments: dict[str, dict[str, Any]] = {
        "suppress": {"people": ["x" * 22]},
        "cancel_lead": {"lead_id": "a"},
    }

    async def main() -> None:
        bench = await Bench.started(clay_takes_s=0.1)
        asked: list[tuple[str, int]] = []
        for what, value in happens:
            if what == "wait":
                await asyncio.sleep(value)
            elif what == "kill":
                await asyncio.sleep(value)
                await bench.kill()
                await bench.start()
            else:
                args = {"credits": 7**value} if what == "correct" else arguments.get(what, {})
                bench.command(what, f"{what}-{value}", **args)
                asked.append((what, value))
        await asyncio.sleep(5.0)
        answers = bench.answers()
        assert len(answers) == len(asked), "each record is answered, once"
        applied = [answer.id for answer in answers if answer.applied]
        assert sorted(applied) == sorted({f"{what}-{value}" for what, value in asked}), (
            "each command, once"
        )
        months = bench.lane().budget.months if asked else ()
        booked = months[-1].credits_elsewhere if months else 0
        assert booked == sum(7**value for what, value in set(asked) if what == "correct")

    run(main())
