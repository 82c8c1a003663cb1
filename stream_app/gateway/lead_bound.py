"""How often one lead may call back: one valid token cannot fill the topic of callbacks.

Clay repeats a callback up to 5 times, a lead may have several rows, and people run a row again by
hand. `AT_ONCE` callbacks of a lead are therefore taken, and one more in each `ONE_MORE_EVERY_S`
after that. Gateways share nothing: each has a bound of its own, and begins again with it when it
restarts.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from hashlib import blake2b
from typing import Final

import msgspec
from attrs import define, field

AT_ONCE: Final = 30
"""Callbacks of a lead that are taken one after the other."""
ONE_MORE_EVERY_S: Final = 2_880
"""How often one more is taken after that: 30 times a day."""
MAX_LEADS: Final = 100_000
"""Leads that are remembered, in about 20 MB. Above it the one that has not called back for the
longest is forgotten.
"""

_EVERY_MS: Final = ONE_MORE_EVERY_S * 1000
_encode: Final = msgspec.json.Encoder().encode


@define(eq=False, repr=False)
class LeadBound:
    """Counts the callbacks of each lead that are taken.

    A lead has one number, as in the generic cell rate algorithm: when it may call back `AT_ONCE`
    times again. It is in whole milliseconds, because sums of fractions would now and then refuse
    the last callback that is promised.
    """

    _now_s: Callable[[], float] = time.monotonic
    _full_ms: OrderedDict[bytes, int] = field(init=False, factory=OrderedDict)

    def __len__(self) -> int:
        return len(self._full_ms)

    def take(self, workspace: str, destination: str, lead_id: str, origin: str) -> bool:
        """Count a callback, before it is stored. Returns False if its lead called back too often.

        `origin`: the input record of a forced lead, whose token is another one.
        """
        now_ms = int(self._now_s() * 1000)
        key = _key(workspace, destination, lead_id, origin)
        before_ms = max(self._full_ms.get(key, now_ms), now_ms)
        taken = before_ms + _EVERY_MS - now_ms <= AT_ONCE * _EVERY_MS
        self._full_ms[key] = before_ms + _EVERY_MS if taken else before_ms
        # Also where it is refused: a lead that is posted on and on must not become the oldest one.
        self._full_ms.move_to_end(key)
        self._forget(now_ms)
        return taken

    def give_back(self, workspace: str, destination: str, lead_id: str, origin: str) -> None:
        """Uncount a callback that was not stored after all."""
        key = _key(workspace, destination, lead_id, origin)
        if key in self._full_ms:
            self._full_ms[key] -= _EVERY_MS

    def _forget(self, now_ms: int) -> None:
        """Forget the oldest leads, as long as they may be forgotten.

        They may call back `AT_ONCE` times again, or there are too many leads.
        """
        while self._full_ms:
            key, full_ms = next(iter(self._full_ms.items()))
            if full_ms > now_ms and len(self._full_ms) <= MAX_LEADS:
                return
            del self._full_ms[key]


def _key(*lead: str) -> bytes:
    """Return 128 bits for a lead, whatever characters its parts have."""
    return blake2b(_encode(lead), digest_size=16).digest()
