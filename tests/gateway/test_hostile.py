"""A short siege through nginx.

`python -m tests.gateway.hostile` runs each attack for longer and prints its figures.
"""

import pytest

from stream_app.dev.kafka import Broker
from tests.gateway.attacks import ATTACKS
from tests.gateway.hostile import Siege, options, siege
from tests.support.pace import slowness

pytestmark = pytest.mark.nginx


async def besieged(kafka: Broker, namespace: str, *argv: str) -> Siege:
    done = await siege(kafka.bootstrap, namespace, options().parse_args(argv))
    assert done.missed(slowness()) == []
    return done


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_good_callbacks_are_taken_while_all_attacks_run_from_one_address(
    kafka: Broker,
    namespace: str,
) -> None:
    done = await besieged(kafka, namespace, "--only", "all", "--seconds", "6", "--one-address")
    (figures,) = done.figures
    assert len(figures.good) == 120
    assert figures.connections > 1_000, "they did attack"


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_every_good_callback_is_taken_under_each_attack(
    kafka: Broker,
    namespace: str,
) -> None:
    done = await besieged(kafka, namespace, "--seconds", "4", "--only", *ATTACKS)
    assert len(done.figures) == len(ATTACKS)
