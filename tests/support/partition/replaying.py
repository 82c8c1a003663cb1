"""The replay process beside a partition."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

import msgspec

from stream_app.domain.dead_letter.replay import Begin, Turns
from stream_app.domain.model.records import Record
from stream_app.domain.plan import Plan, ReplayPolicy
from stream_app.domain.views.lane import LaneView
from stream_app.replay.forward import Replay
from tests.simulation.client import MemoryStream
from tests.simulation.kafka import MemoryKafka
from tests.support.partition.virtual import VirtualClock

_view: Final = msgspec.json.Decoder(LaneView)


class ReplayProcess:
    """The handlers of the replay process on an in-memory Kafka, with the views of the lanes as they
    are published.
    """

    def __init__(self, kafka: MemoryKafka, plan: Plan) -> None:
        self.moving = asyncio.Event()
        self.moving.set()
        self._kafka = kafka
        self._topic = plan.topics.lanes
        policy = ReplayPolicy()
        rates_per_s = {
            name: workspace.rate.rate_per_s for name, workspace in plan.workspaces.items()
        }
        self._turns = Turns(rates_per_s, policy.rate_share)
        about = (
            plan.topics,
            policy,
            rates_per_s,
            self.publish,
            self.begin,
            self.moving,
            VirtualClock(),
            self._turns,
        )
        replay = Replay(*about, lambda *_: None, lambda *_: None)
        handlers: dict[str, Callable[[Any], Awaitable[None]]] = {
            plan.topics.dlq: replay.dead_letters,
            plan.topics.deferred: replay.deferred,
        }
        handlers |= {
            plan.topics.wait(tier_s): partial(replay.wait, tier=tier_s) for tier_s in policy.tiers_s
        }
        self._serving = [
            asyncio.ensure_future(serve(MemoryStream(kafka, "replay", 0, topic, 0)))
            for topic, serve in handlers.items()
        ]
        self._follow_lanes(0)

    async def begin(self, partition: int) -> Begin:
        return Begin()

    async def publish(self, record: Record) -> Awaitable[object]:
        self._kafka.produce(0, record)
        done: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done

    def _follow_lanes(self, position: int) -> None:
        log = self._kafka.log(self._topic, 0)
        while (consumed := log.read(position)) is not None:
            position = consumed.offset + 1
            self._turns.apply(_view.decode(consumed.value or b""))
        log.readers.append(lambda: self._follow_lanes(position))
