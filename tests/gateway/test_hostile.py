"""A short siege through nginx. `python -m tests.gateway.hostile` runs each attack for longer and prints its figures."""

import pytest

from tests.gateway.attacks import ATTACKS
from tests.gateway.hostile import ENDS_WITHIN_S, LEAST_TAKEN, MOST_MB, MOST_P99_S, Siege, options, p99, siege
from tests.support.pace import slowness


async def besieged(*argv: str) -> Siege:
    done = await siege(options().parse_args(argv))
    slow = slowness()
    assert not done.lost, "acknowledged and not on Kafka"
    assert done.exit_code == 0
    assert done.ended_s <= ENDS_WITHIN_S * slow
    assert "raceback" not in done.log
    for figures in done.figures:
        at_once = figures.name == "all"
        assert len(figures.bad) <= (1 - LEAST_TAKEN) * len(figures.good) * at_once, (figures.name, figures.bad)
        assert p99(figures.good) < MOST_P99_S * slow, figures.name
        assert figures.most_mb < MOST_MB, figures.name
    return done


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_good_callbacks_are_taken_while_all_attacks_run_from_one_address() -> None:
    done = await besieged("--only", "all", "--seconds", "6", "--one-address")
    assert [figures.name for figures in done.figures] == ["none", "all"]
    assert done.figures[-1].connections > 1_000, "they did attack"


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_every_good_callback_is_taken_under_each_attack() -> None:
    done = await besieged("--seconds", "4", "--only", *ATTACKS)
    assert len(done.figures) == len(ATTACKS) + 1
