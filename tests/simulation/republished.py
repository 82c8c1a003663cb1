"""Leads that are published again after they were dead-lettered, at any time of the replay of their
dead letter.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from tests.simulation.orders import Order
from tests.simulation.schedule import Arrival, Fault, Schedule, Setup

_FIRST: Final = Arrival(0.0, "acme", "a", "p1")
_SHADOW: Final = Order(0.0, "acme", "shadow")
"""In shadow the breaker takes none of the failures for an outage, in which no dead letters are
written.
"""
_SETUP: Final = Setup(callbacks=False, max_attempts=1, max_replays=2)


def republished() -> Iterable[Schedule]:
    """The replay waits in a delay tier for 2.5 to 5 s: the publication comes before, at, and after
    its end.

    Each copy comes twice, and the publication may fail as well.
    """
    for tenths in range(2, 70, 2):
        again = replace(_FIRST, at_s=tenths / 10)
        for fates in (("busy",), ("busy", "busy"), ("busy", "busy", "busy")):
            yield Schedule(
                f"republished/{len(fates)}@{again.at_s:g}s",
                tenths,
                _SETUP,
                (_FIRST, again),
                fates,
                orders=(_SHADOW,),
                replay_again=1.0,
                shuffle=0.3,
            )


def sent_back() -> Iterable[Schedule]:
    """The replay is on `leads.retry` when the publication comes, and no worker has processed either
    of them.

    The only worker is frozen or killed after the dead letter, and is back when both are on Kafka.
    """
    again = (replace(_FIRST, at_s=6.0), replace(_FIRST, at_s=6.0))
    for step in range(20, 140):
        for fault, restart_s in ((Fault(step, "crash"), 10.0), (Fault(step, "freeze", 8.0), 1.0)):
            yield Schedule(
                f"sent_back/{fault}",
                step,
                _SETUP,
                (_FIRST, *again),
                ("busy",),
                faults=(fault,),
                orders=(_SHADOW,),
                workers=1,
                restart_s=restart_s,
                replay_again=1.0,
                shuffle=0.3,
            )


def perhaps_at_clay() -> Iterable[Schedule]:
    """The dead letter may be at Clay from its first POST. It is sent again by policy, or parked."""
    for tenths in range(10, 1_400, 50):
        for setup in (_SETUP, replace(_SETUP, uncertain="resend")):
            again = replace(_FIRST, at_s=tenths / 10)
            yield Schedule(
                f"perhaps_at_clay/{setup.uncertain}@{again.at_s:g}s",
                tenths,
                setup,
                (_FIRST, again),
                ("lost_after", "busy"),
                orders=(_SHADOW,),
                replay_again=1.0,
            )
