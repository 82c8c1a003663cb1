"""Each row of the table in kafka/takeover/steps.py, and what a transaction's time-out can say."""

import asyncio

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stream_app.domain.model.errors import StateStoreError
from stream_app.kafka.takeover.steps import (
    LastTransaction,
    NextStep,
    Producer,
    Stranded,
    next_step,
    refusal,
    take_over,
    timeout_with_verdict,
)
from tests.support.partition.virtual import virtual_time

ORDINARY_MS = 60_000
EPOCH = 7
COMMIT = timeout_with_verdict(EPOCH, committed=True)
ABORT = timeout_with_verdict(EPOCH, committed=False)
TRANSIENT = ["PrepareCommit", "PrepareAbort", "PrepareEpochFence", "Dead"]
FENCE = NextStep("fence")
WAIT = NextStep("wait")
UNKNOWN = NextStep("unknown")
UNDONE = NextStep("undone")

ROWS = [
    *(
        (state, timeout_ms, WAIT, WAIT)
        for state in TRANSIENT
        for timeout_ms in (ORDINARY_MS, ABORT, COMMIT)
    ),
    ("Ongoing", ORDINARY_MS, FENCE, FENCE),
    ("Ongoing", ABORT, NextStep("end", False), NextStep("end", False)),
    ("Ongoing", COMMIT, NextStep("end", True), NextStep("end", True)),
    ("CompleteCommit", ORDINARY_MS, FENCE, NextStep("fence_verdict", True)),
    ("CompleteAbort", ORDINARY_MS, FENCE, NextStep("fence_verdict", False)),
    ("Empty", COMMIT, FENCE, NextStep("end", True)),
    ("CompleteCommit", COMMIT, FENCE, NextStep("end", True)),
    ("Empty", ABORT, FENCE, NextStep("end", False)),
    ("CompleteAbort", ABORT, FENCE, NextStep("end", False)),
    # Another take-over fenced meanwhile: it can only have carried the same verdict.
    (
        "CompleteAbort",
        timeout_with_verdict(EPOCH - 1, committed=False),
        FENCE,
        NextStep("end", False),
    ),
    ("Empty", timeout_with_verdict(EPOCH - 1, committed=True), FENCE, NextStep("end", True)),
    # A verdict of another epoch is none: another owner may have had transactions since the look.
    *(
        ("Empty", timeout_with_verdict(EPOCH - age, committed=True), FENCE, UNKNOWN)
        for age in (-1, 2)
    ),
    ("Empty", ORDINARY_MS, FENCE, UNKNOWN),
    ("", 0, FENCE, UNKNOWN),
    ("CompleteAbort", COMMIT, UNDONE, UNDONE),
    ("CompleteAbort", timeout_with_verdict(EPOCH - 1, committed=True), UNDONE, UNDONE),
    ("CompleteAbort", timeout_with_verdict(EPOCH - 2, committed=True), UNDONE, UNDONE),
]


@pytest.mark.parametrize(("state", "timeout_ms", "nothing", "something"), ROWS)
def test_each_case_has_its_verdict(
    state: str,
    timeout_ms: int,
    nothing: NextStep,
    something: NextStep,
) -> None:
    last = LastTransaction(state, 1, EPOCH, timeout_ms)
    assert next_step(last, stranded=False) == nothing
    assert next_step(last, stranded=True) == something
    assert last.is_decided == (nothing == something and (nothing == WAIT or nothing.do == "end"))


def test_a_producer_id_without_epochs_left_carries_no_verdict() -> None:
    """The fence would give another producer id, and markers of that one end nothing."""
    assert (
        next_step(LastTransaction("CompleteCommit", 1, 32766, ORDINARY_MS), stranded=True)
        == UNKNOWN
    )
    assert (
        next_step(LastTransaction("CompleteCommit", 1, 32766, ORDINARY_MS), stranded=False) == FENCE
    )
    carried = LastTransaction("Empty", 1, 32766, timeout_with_verdict(32766, committed=True))
    assert next_step(carried, stranded=True) == NextStep("end", True)


@given(st.integers(0, 32767), st.booleans())
def test_a_time_out_encodes_epoch_and_verdict(epoch: int, committed: bool) -> None:
    timeout_ms = timeout_with_verdict(epoch, committed=committed)
    # Kafka's transaction.max.timeout.ms, unless an administrator changes it
    assert 600_000 <= timeout_ms < 900_000
    assert LastTransaction("Empty", 1, epoch, timeout_ms).verdict is committed
    assert LastTransaction("Empty", 1, epoch + 1, timeout_ms).verdict is committed
    assert LastTransaction("Empty", 1, epoch + 2, timeout_ms).verdict is None


@given(st.integers(1, 599_999) | st.integers(600_512, 900_000), st.integers(-1, 32767))
@example(599_999, 255)
@example(600_512, 256)
@example(600_513, 1)
def test_any_other_time_out_has_no_verdict(timeout_ms: int, epoch: int) -> None:
    assert LastTransaction("Empty", 1, epoch, timeout_ms).verdict is None


@pytest.mark.parametrize(
    ("epoch", "timeout_ms"),
    [(0, 600_001), (7, 600_015), (255, 600_511), (256, 600_001), (511, 600_511)],
)
def test_a_verdict_is_on_kafka_as_every_version_has_written_it(epoch: int, timeout_ms: int) -> None:
    assert timeout_with_verdict(epoch, committed=True) == timeout_ms
    assert timeout_with_verdict(epoch, committed=False) == timeout_ms - 1


def test_a_refusal_is_one_line_with_what_to_do() -> None:
    unknown = refusal(UNKNOWN, "app-3", {("state", 3): 7, ("leads.status", 3): 4711})
    assert unknown.startswith(
        "app-3: Kafka left a transaction open in leads.status/3 from offset 4711, state/3 from",
    )
    assert "kafka-transactions.sh abort --topic" in unknown
    undone = refusal(UNDONE, "app-3", {})
    assert "kafka-transactions.sh forceTerminateTransaction --transactionalId app-3" in undone
    assert "\n" not in unknown + undone


NONE = dict[tuple[str, int], int]()
SOME = {("state", 3): 7}
NEW = LastTransaction()
DONE = LastTransaction("CompleteCommit", 1, EPOCH, ORDINARY_MS)
EMPTY = LastTransaction("Empty", 1, EPOCH + 1, COMMIT)
BUSY = LastTransaction("PrepareCommit", 1, EPOCH, ORDINARY_MS)
Look = tuple[LastTransaction, Stranded, float]


class Answers:
    """Gives these answers in turn, each look after some seconds.

    `asked`: what was asked, the looks left out.
    """

    transactional_id = "app-3"

    def __init__(self, looks: list[Look], fences: list[bool], places: list[Stranded]) -> None:
        self.looks = looks
        self.fences = fences
        self.places = places
        self.asked: list[object] = []

    async def look(self) -> tuple[LastTransaction, Stranded]:
        last, stranded, takes_s = self.looks.pop(0)
        await asyncio.sleep(takes_s)
        return last, stranded

    async def open_places(self, producer_id: int) -> Stranded:
        self.asked.append(f"open of {producer_id}")
        return self.places.pop(0)

    async def fence(self, timeout_ms: int) -> Producer | None:
        self.asked.append(timeout_ms)
        return Producer(1, EPOCH) if self.fences.pop(0) else None

    async def end(self, last: LastTransaction, stranded: Stranded, *, committed: bool) -> None:
        self.asked.append((last, stranded, committed))


PLAIN = [ORDINARY_MS]
OPEN = [ORDINARY_MS, "open of 1"]
VERDICT = [timeout_with_verdict(EPOCH + 1, committed=True), (EMPTY, SOME, True)]


@pytest.mark.parametrize(
    ("looks", "fences", "places", "asked", "takes_s"),
    [
        pytest.param(
            [(NEW, NONE, 5.0)],
            [True],
            [],
            PLAIN,
            5.0,
            id="an id without an earlier owner",
        ),
        pytest.param([(DONE, NONE, 0.0)], [True], [NONE], OPEN, 0.0, id="nothing is open"),
        pytest.param(
            [(DONE, SOME, 5.1), (DONE, NONE, 0.0)],
            [True],
            [NONE],
            OPEN,
            5.1,
            id="a look that took too long",
        ),
        pytest.param(
            [(DONE, NONE, 0.0)] * 2,
            [False, True],
            [NONE],
            PLAIN + OPEN,
            0.02,
            id="Kafka is busy",
        ),
        pytest.param(
            [(BUSY, NONE, 0.0), (DONE, NONE, 0.0)],
            [True],
            [NONE],
            OPEN,
            0.02,
            id="it is being ended",
        ),
        pytest.param(
            [(DONE, SOME, 0.0), (EMPTY, SOME, 0.0), (EMPTY, NONE, 0.0)],
            [True, True],
            [NONE],
            VERDICT + OPEN,
            0.0,
            id="stranded, and ended as it was decided",
        ),
    ],
)
@virtual_time
async def test_a_take_over_asks_until_every_transaction_has_ended(
    looks: list[Look],
    fences: list[bool],
    places: list[Stranded],
    asked: list[object],
    takes_s: float,
) -> None:
    kafka = Answers([*looks], [*fences], [*places])
    now_s = asyncio.get_running_loop().time
    began_s = now_s()
    assert await take_over(kafka, ORDINARY_MS) == Producer(1, EPOCH)
    assert kafka.asked == asked
    assert kafka.looks == []
    assert takes_s <= now_s() - began_s < takes_s + 0.02


@virtual_time
async def test_what_was_stranded_between_the_look_and_the_fence_is_no_take_over() -> None:
    kafka = Answers(
        [(DONE, NONE, 0.0), (LastTransaction("Empty", 1, EPOCH), SOME, 0.0)],
        [True],
        [SOME],
    )
    with pytest.raises(
        StateStoreError,
        match="app-3: Kafka left a transaction open in state/3 from offset 7",
    ):
        await take_over(kafka, ORDINARY_MS)
    assert kafka.asked == OPEN
