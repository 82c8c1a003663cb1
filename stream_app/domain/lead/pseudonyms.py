"""Hashes that stand for people and lead ids in rows, keys, events and logs: keyed by a pepper, if there is one.

Without a pepper anybody with a list of addresses can find out whose hash it is. Each process sets its peppers once,
when it loads its settings (`use`); everything that hashes asks this module. While a pepper is rotated, and when the
first one is introduced, hashes of before are still looked up, and never made for new rows.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Iterable
from functools import lru_cache
from hashlib import blake2b
from typing import Final

import msgspec

_REMEMBERED: Final = 64


class Pseudonyms(msgspec.Struct, frozen=True):
    """How hashes are made.

    keys           of the first pepper, which hashes, then of those that are only looked up; b"" is no pepper.
    hash_lead_ids  whether every lead id is replaced by its hash.
    """

    keys: tuple[bytes, ...] = (b"",)
    hash_lead_ids: bool = False


def pseudonyms_of(peppers: Iterable[str], hash_lead_ids: bool) -> Pseudonyms:
    """Peppers as keys. Hashes that were made without a pepper are looked up, too."""
    keys = [blake2b(pepper.encode(), digest_size=32, person=b"stream-app").digest() for pepper in peppers]
    return Pseudonyms((*keys, b""), hash_lead_ids)


class _Process:
    """What this process uses."""

    current = Pseudonyms()


def use(pseudonyms: Pseudonyms) -> None:
    """Hash so from now on, in this process."""
    _Process.current = pseudonyms
    digest.cache_clear()
    former_digests.cache_clear()


def current() -> Pseudonyms:
    """What this process uses."""
    return _Process.current


@lru_cache(_REMEMBERED)
def digest(*parts: str) -> str:
    """22 characters fit for a key: 128 bits of the parts, keyed by the first pepper."""
    return _digest(_Process.current.keys[0], parts)


@lru_cache(_REMEMBERED)
def former_digests(*parts: str) -> tuple[str, ...]:
    """What `digest` may have been before: one hash for each further key."""
    return tuple(_digest(key, parts) for key in _Process.current.keys[1:])


def plain_digest(*parts: str) -> str:
    """The same without a pepper, for parts that are hashes already, or show elsewhere anyway."""
    return _digest(b"", parts)


def _digest(key: bytes, parts: tuple[str, ...]) -> str:
    raw = blake2b("\x1f".join(parts).encode("utf-8", "surrogatepass"), digest_size=16, key=key).digest()
    return urlsafe_b64encode(raw)[:22].decode("ascii")
