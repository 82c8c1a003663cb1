"""The records of one topic and partition that wait in memory, bounded by bytes.

Faust counts records only, and a record of a producer may have a megabyte. A partition therefore
also leaves the fetch when its waiting records have too many bytes, and comes back when two fifths
of these bytes are left.
"""

from collections import deque
from collections.abc import Callable
from typing import Any, Final

from mode.utils.queues import ThrowableQueue

_RECORD_BYTES: Final = 600
_HEADER_BYTES: Final = 200
"""What the objects of a record and of one of its headers take, beside their bytes."""


class BoundedBuffer(ThrowableQueue):  # type: ignore[misc]  # mode ships no types
    """A queue of Faust's events.

    Anything that is no event, such as the batches of a stream, has no size here.

    Args:
        max_bytes: From this many bytes on the pressure is high, and Faust fetches no more for it.
    """

    def __init__(self, maxsize: int, *, max_bytes: int, **how: Any) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._sizes: deque[int] = deque()  # of the items in the queue
        super().__init__(maxsize, **how)

    def _put(self, item: Any) -> None:
        size = size_of(item)
        self._bytes += size
        self._sizes.append(size)
        super()._put(item)

    def _get(self) -> Any:
        self._bytes -= self._sizes.popleft()
        return super()._get()

    def clear(self) -> None:
        super().clear()
        self._bytes = 0
        self._sizes.clear()

    def in_pressure_high_state(self, callback: Callable[[], None]) -> bool:
        """Return True if the pressure has become high. `callback` is called when it has dropped."""
        pending = self._pending_pressure_drop_callbacks
        is_high = self._bytes >= self._max_bytes or self.qsize() >= self.pressure_high_size
        if not is_high or callback in pending:
            return False
        pending.add(callback)
        self.on_pressure_high()
        return True

    def maybe_endorse_pressure_drop(self) -> None:
        """Call the callbacks if the pressure has dropped, in bytes and in records."""
        if not self._pending_pressure_drop_callbacks:
            return
        if self.empty() or self._bytes <= self._max_bytes * self.pressure_drop_ratio:
            super().maybe_endorse_pressure_drop()


def size_of(item: Any) -> int:
    """Return the bytes that an event's record takes in memory, about; 0 if it is no event."""
    message = getattr(item, "message", None)
    if message is None:
        return 0
    size = _RECORD_BYTES + len(message.key or b"") + len(message.value or b"")
    for name, value in message.headers or ():
        size += _HEADER_BYTES + len(name) + len(value or b"")
    return size
