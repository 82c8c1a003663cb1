"""Fair shares of a bounded resource: which holder to evict when it is full, and which peer to serve next.

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
    """Return the peer of a host's address. Text that is not an address is a peer of its own."""
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
        """Add to the amount of a holder. A new holder is the youngest of its peer."""
        holders = self._by_peer.setdefault(peer, {})
        holders[holder] = holders.get(holder, 0) + amount
        self._held[peer] = self._held.get(peer, 0) + amount

    def remove(self, peer: str, holder: T) -> None:
        """Forget a holder that holds nothing any more or cannot be evicted. An unknown holder is ignored."""
        holders = self._by_peer.get(peer)
        if holders is None or holder not in holders:
            return
        self._held[peer] -= holders.pop(holder)
        if not holders:
            del self._by_peer[peer], self._held[peer]

    def gives_way(self) -> T | None:
        """Return the oldest holder of the peer that holds most; None if there is no holder."""
        if not self._held:
            return None
        return next(iter(self._by_peer[max(self._held, key=self._held.__getitem__)]))


class FairTurns(Generic[T]):
    """A queue that serves the peers in turn, and the items of each peer in order."""

    def __init__(self) -> None:
        self._by_peer: dict[str, deque[T]] = {}

    def __bool__(self) -> bool:
        return bool(self._by_peer)

    def push(self, peer: str, item: T) -> None:
        """Put an item behind the other items of its peer."""
        self._by_peer.setdefault(peer, deque()).append(item)

    def pop(self) -> T:
        """Remove and return the next item. Raises LookupError if there is none."""
        try:
            peer = next(iter(self._by_peer))
        except StopIteration:
            raise LookupError("the queue is empty") from None
        items = self._by_peer.pop(peer)
        item = items.popleft()
        if items:
            self._by_peer[peer] = items  # behind the others
        return item
