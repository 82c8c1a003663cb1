"""The simulator's chance: each draw is a hash of the seed and of its subject.

The fault that plays now is drawn in the same way. No generator state advances, so the outcome for
one lead does not depend on the requests before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from math import exp, log
from statistics import NormalDist

from stream_app.dev.simulator.script import (
    CALLBACK_FAULTS,
    COLUMN_FAULTS,
    LISTENER,
    OBSCURING,
    REFUSING,
    ROUTINE,
    EndpointName,
    Fault,
    RowLatency,
)

_REQUEST = REFUSING.keys() | OBSCURING.keys()
_MANTISSA_BITS = 53
_Z95 = NormalDist().inv_cdf(0.95)


def digest(data: bytes) -> int:
    """Return a 64-bit name for some bytes, to store instead of the bytes."""
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "big")


class Chance:
    """Draws for one seed."""

    def __init__(self, seed: int) -> None:
        self._key = str(seed).encode()[:64]

    def draw(self, *about: object) -> float:
        """Return a number in [0, 1), always the same for the same seed and `about`."""
        text = "\x1f".join(map(str, about)).encode("utf-8", "surrogatepass")
        hashed = blake2b(text, digest_size=8, key=self._key).digest()
        return (int.from_bytes(hashed, "big") >> (64 - _MANTISSA_BITS)) / 2.0**_MANTISSA_BITS

    def pick(self, count: int, *about: object) -> int:
        """Return an index in [0, count)."""
        return int(self.draw(*about) * count)

    def latency_s(self, latency: RowLatency, *about: object) -> float:
        """Return the duration of a row in seconds: log-normal, with a share of slow rows."""
        if latency.scale == 0:
            return 0.0
        if self.draw("slow row", *about) < latency.slow_share:
            return latency.scale * latency.slow_s * (0.5 + self.draw("slow row takes", *about))
        sigma = log(latency.p95_s / latency.median_s) / _Z95
        z = NormalDist().inv_cdf(max(self.draw("row takes", *about), 1e-9))
        return latency.scale * max(latency.min_s, latency.median_s * exp(sigma * z))


class Timeline:
    """The faults of a script and those added later. `clock` returns seconds, from any origin."""

    def __init__(self, faults: Iterable[Fault], chance: Chance, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._chance = chance
        self._origin = clock()
        self._added = 0
        self._faults: dict[int, Fault] = {}
        self.add(faults)

    @property
    def now_s(self) -> float:
        """Seconds since the start or the last reset of the clock."""
        return self._clock() - self._origin

    def reset_clock(self) -> None:
        self._origin = self._clock()

    def add(self, faults: Iterable[Fault]) -> None:
        for fault in faults:
            self._added += 1
            self._faults[self._added] = fault

    def clear(self, kind: str | None = None) -> int:
        """Remove the faults of a kind, or all. Returns how many."""
        gone = [number for number, fault in self._faults.items() if kind in (None, fault.kind)]
        for number in gone:
            del self._faults[number]
        return len(gone)

    def listed(self) -> list[tuple[Fault, bool]]:
        """Return all faults, each with whether it is active now."""
        now_s = self.now_s
        return [(fault, _is_on(fault, now_s)) for fault in self._faults.values()]

    def request_fault(
        self,
        workspace: str,
        webhook: str,
        about: str,
        occurrence: int,
        endpoint: EndpointName = "webhook",
    ) -> Fault | None:
        """Return the fault for one request.

        It is the first in the script's order whose time, place and share match.
        """
        hits = self._hits(_REQUEST, workspace, webhook, about, occurrence)
        return next((fault for fault in hits if fault.endpoint in (None, endpoint)), None)

    def callback_faults(
        self,
        workspace: str,
        webhook: str,
        about: str,
        occurrence: int,
    ) -> list[Fault]:
        """Return all faults for one run of a callback column."""
        return list(self._hits(CALLBACK_FAULTS.keys(), workspace, webhook, about, occurrence))

    def column_faults(
        self,
        workspace: str,
        webhook: str,
        about: str,
        occurrence: int,
    ) -> list[Fault]:
        """Return all faults of the columns of one run of a row."""
        return list(self._hits(COLUMN_FAULTS.keys(), workspace, webhook, about, occurrence))

    def routine_faults(
        self,
        workspace: str,
        routine: str,
        about: str,
        occurrence: int,
    ) -> list[Fault]:
        """Return all faults for one run of a routine, or for one of its items."""
        return list(self._hits(ROUTINE.keys(), workspace, routine, about, occurrence))

    def refuses(self) -> tuple[bool, float | None]:
        """Return whether connections are refused now, and when that may change.

        Returns:
            True if they are refused, and the seconds until that may change; None: never.
        """
        now_s = self.now_s
        refusals = [fault for fault in self._faults.values() if fault.kind in LISTENER]
        edges = [fault.at_s for fault in refusals]
        edges += [fault.at_s + fault.for_s for fault in refusals if fault.for_s is not None]
        ahead = [edge - now_s for edge in edges if edge > now_s]
        return any(_is_on(fault, now_s) for fault in refusals), min(ahead, default=None)

    def _hits(
        self,
        kinds: Iterable[str],
        workspace: str,
        webhook: str,
        about: str,
        occurrence: int,
    ) -> Iterator[Fault]:
        now_s = self.now_s
        for number, fault in self._faults.items():
            if (
                fault.kind in kinds
                and _is_on(fault, now_s)
                and fault.workspace in (None, workspace)
                and fault.webhook in (None, webhook)
                and self._chance.draw("fault", number, about, occurrence) < fault.share
            ):
                yield fault


def _is_on(fault: Fault, now_s: float) -> bool:
    return fault.at_s <= now_s and (fault.for_s is None or now_s < fault.at_s + fault.for_s)
