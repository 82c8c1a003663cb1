"""A short siege through nginx.

`python -m tests.gateway.hostile` runs each attack for longer and prints its figures.
"""

import pytest

from stream_app.dev.kafka import Broker
from tests.gateway.attacks import ATTACKS
from tests.gateway.hostile import Siege, options, siege
from tests.support.pace import slowness
from tests.support.proxy import ProxiedKafka

pytestmark = pytest.mark.nginx


async def besieged(kafka: Broker, namespace: str, *argv: str) -> Siege:
    done = await siege(kafka, namespace, options().parse_args(argv))
    assert done.missed(slowness()) == []
    return done


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("source", ["one", pytest.param("balancer", marks=pytest.mark.long)])
async def test_good_callbacks_are_taken_while_all_attacks_run_from_one_address(
    kafka: Broker,
    namespace: str,
    source: str,
) -> None:
    done = await besieged(kafka, namespace, "--only", "all", "--seconds", "6", "--from", source)
    (figures,) = done.figures
    assert len(figures.good) == 120
    assert figures.connections > 1_000 / slowness(), "they did attack"


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_every_good_callback_is_taken_under_each_attack(
    kafka: Broker,
    namespace: str,
) -> None:
    done = await besieged(kafka, namespace, "--seconds", "4", "--only", *ATTACKS)
    assert len(done.figures) == len(ATTACKS)


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_callbacks_are_held_while_one_address_has_all_its_places_with_slow_bodies(
    broker: ProxiedKafka,
    namespace: str,
) -> None:
    away = ("--kafka-away", "5", "--seconds", "20")
    done = await besieged(broker, namespace, "--only", "slow", "--from", "one", *away)
    (figures,) = done.figures
    assert len(figures.good) == 400
    assert figures.away_s > 5
    assert figures.connections > 6_000, "more than it has places"
