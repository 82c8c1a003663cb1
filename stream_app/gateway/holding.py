"""Holds verified callbacks in memory while Kafka is away, and writes them when it is back.

Clay's HTTP column by default repeats a call only once, and without a pause. So an answer that
refuses a callback because of a minute's outage would lose a result that has been paid for.
Therefore the gateway holds the callback, and its caller waits for the answer. A callback whose
caller does not wait any longer is still held.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import islice
from typing import Final, Literal

from attrs import define, field
from prometheus_client import CollectorRegistry, Counter, Gauge
from structlog.typing import FilteringBoundLogger

from stream_app.domain.model.errors import BrokerUnavailable
from stream_app.domain.model.records import Record
from stream_app.ops import logs as log

MAX_CALLBACKS: Final = 8_000
"""Callbacks that are held or being written at once: 100 a second for 80 seconds."""
MAX_CALLBACK_BYTES: Final = 64 * 2**20
"""Bytes of their bodies."""
_ASK_AGAIN_S: Final = 0.5
_AT_ONCE: Final = 500
"""Callbacks that are written at once when Kafka is back."""

Kept = Literal["stored", "held", "full"]
"""stored: on Kafka. held: in memory, and written when Kafka is back. full: there is no place."""


@define(eq=False, repr=False)
class _Place:
    """One callback that is not on Kafka yet.

    Attributes:
        since_s: When it came, on the loop's clock.
        is_held: True once Kafka has not taken it.
        is_stored: True once Kafka has it.
        answerable: Set when its callers are to be answered.
    """

    callback_id: str
    record: Record
    since_s: float
    is_held: bool = False
    is_stored: bool = False
    answerable: asyncio.Event = field(factory=asyncio.Event)

    @property
    def size(self) -> int:
        return len(self.record.value or b"")


class Holding:
    """Writes callbacks to Kafka by `put`, and holds those that Kafka does not take.

    Args:
        put: Returns when a record is stored, within a bounded time; raises BrokerUnavailable if
            that is uncertain.
        hold_s: How long a caller waits, in seconds.
        registry: Gets the metrics.

    While Kafka is away, only `run` asks it, so that thousands of held callbacks cost no more than
    one.
    """

    def __init__(
        self,
        put: Callable[[Record], Awaitable[None]],
        hold_s: float,
        registry: CollectorRegistry,
    ) -> None:
        self._put = put
        self._hold_s = hold_s
        self._log: FilteringBoundLogger = log.get("gateway")
        self._places: dict[str, _Place] = {}
        self._bytes = 0
        # those of the held ones that nobody is writing now
        self._waiting: OrderedDict[str, _Place] = OrderedDict()
        self._any_waiting = asyncio.Event()
        self._kafka_is_away = False
        self._is_closing = False
        Gauge(
            "stream_app_callbacks_held",
            "Callbacks in memory that wait for Kafka.",
            registry=registry,
        ).set_function(lambda: len(self._held()))
        Gauge(
            "stream_app_callbacks_held_bytes",
            "Bytes of the bodies of callbacks that wait for Kafka.",
            registry=registry,
        ).set_function(lambda: sum(place.size for place in self._held()))
        Gauge(
            "stream_app_callbacks_held_oldest_seconds",
            "Age of the oldest callback that waits for Kafka; 0 if none does.",
            registry=registry,
        ).set_function(self._oldest_s)
        self._lost = Counter(
            "stream_app_callbacks_lost",
            "Callbacks that were in memory when the gateway ended, and that Kafka did not take.",
            registry=registry,
        )

    async def keep(self, callback_id: str, record: Record) -> Kept:
        """Store a callback, and wait up to `hold_s` until it is.

        `callback_id` is the same for the same content: a repeated callback shares the place of the
        first.
        """
        until_s = asyncio.get_running_loop().time() + self._hold_s
        place = self._places.get(callback_id)
        if place is None:
            place = self._place(callback_id, record)
            if place is None:
                return "full"
            if self._kafka_is_away:
                self._hold(place)
            else:
                await self._write(place)
        with suppress(TimeoutError):
            async with asyncio.timeout_at(until_s):
                await place.answerable.wait()
        return "stored" if place.is_stored else "held"

    def full(self) -> str | None:
        """Return why no further callback can be held, or None."""
        if len(self._places) < MAX_CALLBACKS and self._bytes < MAX_CALLBACK_BYTES:
            return None
        return "Kafka does not take callbacks, and no more can be held"

    async def run(self) -> None:
        """Ask whether Kafka is back while anything is held, and write it then."""
        while True:
            await self._any_waiting.wait()
            if not await self._write_held():
                await asyncio.sleep(_ASK_AGAIN_S)

    def release(self) -> None:
        """Have all callers answered now, and later ones as soon as Kafka does not take theirs."""
        self._is_closing = True
        for place in self._held():
            place.answerable.set()

    async def write_rest(self, within_s: float) -> int:
        """Write what is held, when `run` has ended. Returns how many callbacks are lost."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while self._waiting and await self._write_held():
                    pass
        lost = len(self._places)
        self._lost.inc(lost)
        if lost:
            self._log.error(
                "callbacks_lost",
                callbacks=lost,
                text="Kafka was away until the gateway ended: run the HTTP column of the tables "
                "again for rows whose cell does not say Received",
            )
        return lost

    def _place(self, callback_id: str, record: Record) -> _Place | None:
        place = _Place(callback_id, record, asyncio.get_running_loop().time())
        if len(self._places) >= MAX_CALLBACKS or self._bytes + place.size > MAX_CALLBACK_BYTES:
            return None
        self._places[callback_id] = place
        self._bytes += place.size
        return place

    def _hold(self, place: _Place) -> None:
        place.is_held = True
        self._waiting[place.callback_id] = place
        self._any_waiting.set()
        if self._is_closing:
            place.answerable.set()

    def _leave(self, place: _Place) -> None:
        del self._places[place.callback_id]
        self._bytes -= place.size
        place.answerable.set()

    async def _write(self, place: _Place) -> bool:
        """Write one callback, which nobody else does meanwhile because it is not among the held.

        Returns False if Kafka did not take it, and then holds it.
        """
        # Taken out by the task that writes it and not by the one that starts that task: a task that
        # is cancelled before its first step, when the gateway ends, leaves the callback waiting.
        self._waiting.pop(place.callback_id, None)
        if not self._waiting:
            self._any_waiting.clear()
        try:
            await self._put(place.record)
        except BrokerUnavailable as error:
            if not self._kafka_is_away:
                self._log.warning("callbacks_held", because=str(error))
            self._kafka_is_away = True
            self._hold(place)
            return False
        except asyncio.CancelledError:
            self._hold(place)
            raise
        except BaseException:
            self._leave(place)
            raise
        place.is_stored = True
        self._leave(place)
        return True

    async def _write_held(self) -> bool:
        """Write the oldest held callback, or many of them while Kafka takes them.

        Returns whether Kafka took one. One that Kafka refuses goes behind all others.
        """
        places = list(islice(self._waiting.values(), 1 if self._kafka_is_away else _AT_ONCE))
        was_away = self._kafka_is_away
        written = await asyncio.gather(*(self._write(place) for place in places))
        # A callback that is being written by its caller may have found Kafka away meanwhile: then
        # what was written here says that Kafka is back, and the next failure says that it is not.
        self._kafka_is_away = not any(written)
        if was_away and not self._kafka_is_away:
            self._log.info("kafka_back", held=len(self._held()))
        return not self._kafka_is_away

    def _held(self) -> list[_Place]:
        """Return the held callbacks, also one that is being written now."""
        return [place for place in self._places.values() if place.is_held]

    def _oldest_s(self) -> float:
        held = self._held()
        if not held:
            return 0.0
        return asyncio.get_running_loop().time() - min(place.since_s for place in held)
