"""Hashes that stand for people and lead ids in rows, keys, events and logs, keyed by a pepper.

Without a pepper, anyone with a list of addresses can find out which hash belongs to which address. Each process sets
its peppers once, when it loads its settings (`use`). During a rotation, and after the first pepper is introduced,
former hashes are still looked up but never written to new rows.
"""

from __future__ import annotations

from binascii import b2a_base64
from collections.abc import Iterable
from hashlib import blake2b
from typing import Final

import msgspec


class Pseudonyms(msgspec.Struct, frozen=True):
    """How hashes are made.

    Attributes:
        keys: The key of the first pepper, which hashes, then keys for look-ups only; b"" means no pepper.
        hash_lead_ids: True if every lead id is replaced by its hash.
    """

    keys: tuple[bytes, ...] = (b"",)
    hash_lead_ids: bool = False


def pseudonyms_of(peppers: Iterable[str], hash_lead_ids: bool) -> Pseudonyms:
    """Return the keys of the peppers. The last key finds hashes that were made without a pepper."""
    keys = [blake2b(pepper.encode(), digest_size=32, person=b"stream-app").digest() for pepper in peppers]
    return Pseudonyms((*keys, b""), hash_lead_ids)


class _Process:
    """The setting of this process, and a hash with each of its keys."""

    current: Pseudonyms
    keyed: tuple[blake2b, ...]


def use(pseudonyms: Pseudonyms) -> None:
    """Set how this process hashes from now on."""
    _Process.current = pseudonyms
    _Process.keyed = tuple(blake2b(digest_size=16, key=key) for key in pseudonyms.keys)


use(Pseudonyms())
_URL_SAFE: Final = bytes.maketrans(b"+/", b"-_")
_PLAIN: Final = blake2b(digest_size=16)


def current() -> Pseudonyms:
    """Return the setting of this process."""
    return _Process.current


def digest(*parts: str) -> str:
    """Return 22 characters that are valid in a key: 128 bits of the parts, keyed by the first pepper."""
    return _digest(_Process.keyed[0], parts)


def former_digests(*parts: str) -> tuple[str, ...]:
    """Return what `digest` gave under each further key."""
    return tuple(_digest(keyed, parts) for keyed in _Process.keyed[1:])


def plain_digest(*parts: str) -> str:
    """Return the digest without a pepper, for parts that are hashes already or are visible elsewhere."""
    return _digest(_PLAIN, parts)


def _digest(keyed: blake2b, parts: tuple[str, ...]) -> str:
    hashed = keyed.copy()
    hashed.update("\x1f".join(parts).encode("utf-8", "surrogatepass"))
    return b2a_base64(hashed.digest(), newline=False).translate(_URL_SAFE)[:22].decode("ascii")
