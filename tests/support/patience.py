"""The patience of a command, on a machine that does other things as well.

A person at a terminal waits for seconds. A process that answers meanwhile takes longer where it has
less of a processor.
"""

from collections.abc import Callable
from types import ModuleType
from typing import Final

from stream_app.cli import lanes, publish, replay
from stream_app.client.doctor import checks, gateways, recording
from stream_app.kafka import producers
from tests.support.pace import slowness

_WAITS: Final[tuple[tuple[ModuleType, str], ...]] = (
    (lanes, "_WAIT_S"),
    (publish, "_ANSWER_WITHIN_S"),
    (replay, "_STOP_WITHIN_S"),
    (checks, "_WITHIN_S"),
    (gateways, "_WITHIN_S"),
    (recording, "_WITHIN_S"),
    (producers, "_CONFIRM_WITHIN_S"),
    (producers, "_FLUSH_WITHIN_S"),
)


def be_patient(change: Callable[[], object] | None = None) -> None:
    """Let the commands of this process wait as many times as long as the machine is slow.

    change: called afterwards, as a test changes the command.
    """
    times = slowness()
    for module, name in _WAITS:
        setattr(module, name, times * getattr(module, name))
    if change is not None:
        change()
