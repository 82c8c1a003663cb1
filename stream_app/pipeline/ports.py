"""What the line needs from outside, as small protocols: a record's walk, its partition, Clay, time and chance."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from stream_app.domain.delivery.outcome import Outcome
from stream_app.domain.delivery.recorder import Posted, WriteBatch
from stream_app.domain.delivery.state_machine import Delivery
from stream_app.domain.lane.budget import Reservation
from stream_app.domain.lane.lane import AdmissionRequest, Grant, Held
from stream_app.domain.lane.settlement import Settlement
from stream_app.domain.lead.suppression import Suppression
from stream_app.domain.policy import Destination
from stream_app.domain.record import ConsumedRecord


class InFlight(Protocol):
    """One taken record on its way down the line."""

    posted: Posted | None
    """What is known of its last POST, from the write-ahead on and except while it is under way; outlives a `take`."""

    @property
    def consumed(self) -> ConsumedRecord: ...

    def release_next(self) -> None:
        """This lead no longer needs its turn at the gate: the next record of its topic may be taken."""


class PartitionState(Protocol):
    """A partition as the line sees it: its rows, its lanes, its transactions. One desk, one partition, one owner."""

    def find(self, key: bytes) -> Delivery | None: ...

    def alias(self, key: bytes) -> bytes | None: ...

    def marked(self, *places: str) -> bytes | None:
        """The row that says that one of these records was concluded, where no delivery row says it (any more)."""

    @property
    def suppressing(self) -> bool:
        """Whether anybody at all is not to be sent."""

    def suppression(self, key: bytes) -> Suppression | None: ...

    def lock(self, in_flight: InFlight, keys: Callable[[], tuple[bytes, ...]]) -> AbstractAsyncContextManager[None]:
        """Hold an exclusive lock on these keys, in the order of the records; `keys` may give more of them after a wait.

        The lock ends with the block, or in it with `conclude` or `confirm`.
        """

    def stands_still(self, destination: Destination, *, bulk: bool) -> bool:
        """True if the lane holds such a lead now, or would only let it go as a probe. Nothing is taken."""

    async def admit(
        self, in_flight: InFlight, ask: AdmissionRequest, write_ahead: Callable[[Grant], WriteBatch]
    ) -> Grant | Held:
        """Wait for this lead's turn. Go: the lane's change and `write_ahead` are one committed step when it returns."""

    def settle(self, entry: Grant, outcome: Outcome | None, *, has_slot: bool) -> Settlement:
        """Tell the lane how the POST ended (None: it was not started). Belongs to the step committed next.

        has_slot: the partition has not been taken over again since it was admitted.
        """

    def letter(self, entry: Grant, reason: str) -> None:
        """The lead of an entry becomes a dead letter. Belongs to the step committed next."""

    def charge(self, workspace: str, reservation: Reservation) -> None:
        """Book a reservation as spent. Belongs to the step committed next."""

    async def commit(self, step: WriteBatch) -> None:
        """One transaction (shared with other steps): when it returns, all of the step is in Kafka."""

    async def conclude(self, in_flight: InFlight, step: WriteBatch) -> None:
        """Commit the last step of a walk, and unlock its keys before that: copies decide by the rows as they will be.

        Steps are committed in order. So a copy's step is committed with this one or after it, or neither is.
        """

    async def confirm(self, in_flight: InFlight, key: bytes) -> None:
        """Conclude by this row as it is: only what the partition's owner has read may be acked without a step."""


class Clay(Protocol):
    """Sends one row to a destination's webhook; never raises for trouble of the network."""

    async def send(self, destination: str, webhook_id: str, body: bytes) -> Outcome: ...


class Clock(Protocol):
    """Time and chance, as arguments."""

    def now_ms(self) -> int: ...

    def boot_ms(self) -> int:
        """Milliseconds of a clock that never steps and runs on while the machine or process is suspended."""

    def rand(self) -> float:
        """From 0 to 1."""
