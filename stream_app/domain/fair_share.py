"""Fair shares of a bounded resource between peers: which holder gives way when it is full, and who is served next.

A peer is a network address. An IPv6 peer is its /64 prefix, because one host can use any address in it.
"""

from __future__ import annotations

from collections import deque
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import Final, Generic, TypeVar

T = TypeVar("T")

_SUBNET: Final = ~(2**64 - 1)


@lru_cache(maxsize=4_096)
def peer_of(host: str) -> str:
    """The peer that a host's address belongs to. Text that is no address is its own peer."""
    try:
        address = ip_address(host)
    except ValueError:
        return host
    if not isinstance(address, IPv6Address):
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(IPv6Address(int(address) & _SUBNET))


class Holders(Generic[T]):
    """The holders of a bounded resource by peer, oldest first, each with the amount that it holds."""

    def __init__(self) -> None:
        self._by_peer: dict[str, dict[T, int]] = {}
        self._held: dict[str, int] = {}

    def add(self, peer: str, holder: T, amount: int) -> None:
        """The holder holds so much more. A new one is the youngest of its peer."""
        holders = self._by_peer.setdefault(peer, {})
        holders[holder] = holders.get(holder, 0) + amount
        self._held[peer] = self._held.get(peer, 0) + amount

    def remove(self, peer: str, holder: T) -> None:
        """The holder holds nothing any more, or can no longer give way. It may be unknown."""
        holders = self._by_peer.get(peer)
        if holders is None or holder not in holders:
            return
        self._held[peer] -= holders.pop(holder)
        if not holders:
            del self._by_peer[peer], self._held[peer]

    def gives_way(self) -> T | None:
        """The oldest holder of the peer that holds most. None: there is no holder."""
        if not self._held:
            return None
        return next(iter(self._by_peer[max(self._held, key=self._held.__getitem__)]))


class FairTurns(Generic[T]):
    """A queue that serves the peers in turn, and each peer's items in their order."""

    def __init__(self) -> None:
        self._by_peer: dict[str, deque[T]] = {}

    def __bool__(self) -> bool:
        return bool(self._by_peer)

    def push(self, peer: str, item: T) -> None:
        """Put it behind the other items of its peer."""
        self._by_peer.setdefault(peer, deque()).append(item)

    def pop(self) -> T:
        """The next item. Raises LookupError if there is none."""
        try:
            peer = next(iter(self._by_peer))
        except StopIteration:
            raise LookupError("no item waits") from None
        items = self._by_peer.pop(peer)
        item = items.popleft()
        if items:
            self._by_peer[peer] = items  # behind the others
        return item
