"""The stop of a lane is measured correctly: only while a lead waits, and from POST to POST."""

import itertools
import os

import pytest

from tests.chaos.__main__ import complaints, table
from tests.chaos.brokers import BOUND_S, MEANING, LaneStop, Window, draw, longest_stop_s, too_long
from tests.chaos.campaign import Goal, run_campaign

ALL = (0, 100_000)


@pytest.mark.parametrize(
    ("waits", "posts", "stood_s"),
    [
        ([], [], 0),
        ([], [10_000, 90_000], 0),  # no lead waited
        ([(0, 100_000)], [], 100),
        ([(0, 100_000)], [30_000, 40_000], 60),
        ([(20_000, 30_000)], [5_000, 90_000], 10),  # taken without a POST: a duplicate
        ([(20_000, 30_000), (29_000, 45_000)], [5_000, 90_000], 25),  # one lead after the other
        ([(20_000, 30_000), (31_000, 45_000)], [5_000, 90_000], 14),  # and a time without any
        ([(-50_000, 200_000)], [-1, 50_000], 50),  # the window is what counts
        ([(0, 100_000)], [0, 100_000], 100),
    ],
)
def test_the_longest_stop_of_a_lane(
    waits: list[tuple[int, int]],
    posts: list[int],
    stood_s: float,
) -> None:
    assert longest_stop_s(reversed(waits), reversed(posts), *ALL) == stood_s


def test_only_a_stop_above_the_bound_is_reported() -> None:
    window = Window("broker_freeze", 2, *ALL)
    assert too_long([LaneStop(BOUND_S - 0.1, "w0", window)]) == []
    (text,) = too_long([LaneStop(BOUND_S, "w1", window)])
    assert text.startswith("lane w1 stood 25.0 s")
    assert "broker 2" in text


def test_every_broker_gets_every_kind_of_fault() -> None:
    drawn = {(fault.kind, fault.who) for fault in itertools.islice(draw(1), 400)}
    assert {(kind, who) for kind in MEANING for who in range(3)} <= drawn


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_broken_brokers_lose_no_lead_and_stop_no_lane() -> None:
    seed = int(os.environ.get("CHAOS_SEED", "1"))
    result = await run_campaign(Goal(seconds=60), seed, resend=False, brokers=3)
    assert result.passed, "\n".join([table(result), *complaints(result)])
    assert result.faults.keys() >= MEANING.keys()
    assert 0 < (result.longest_stop_s or 0) < BOUND_S
    assert result.verdict.accepted > 500
