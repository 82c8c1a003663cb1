"""How people, companies and ids are hashed: keyed by the pepper of this process.

Without a pepper, anyone with a list of addresses can find out which hash belongs to which address.
Each process sets its pepper once, when it loads its settings (`use`). A namespace has one pepper
for good, because no hash that was made with another one is recognised.
"""

from base64 import urlsafe_b64encode
from hashlib import blake2b

import msgspec


class Pseudonyms(msgspec.Struct, frozen=True):
    """How hashes are made."""

    key: bytes = b""  # the key of the pepper; b"" means no pepper
    hash_lead_ids: bool = False  # every lead id is replaced by its hash


def pseudonyms_of(pepper: str | None, hash_lead_ids: bool) -> Pseudonyms:
    """Return how hashes are made with this pepper; None: with none."""
    key = (
        b""
        if pepper is None
        else blake2b(pepper.encode(), digest_size=32, person=b"stream-app").digest()
    )
    return Pseudonyms(key, hash_lead_ids)


class _Process:
    """The setting of this process."""

    current = Pseudonyms()


def use(pseudonyms: Pseudonyms) -> None:
    """Set how this process hashes from now on."""
    _Process.current = pseudonyms


def current() -> Pseudonyms:
    """Return the setting of this process."""
    return _Process.current


def fingerprint() -> str | None:
    """Return what tells the pepper of this process from another one; None without a pepper.

    It does not reveal the pepper.
    """
    return digest("fingerprint of the pepper") if _Process.current.key else None


def digest(*parts: str) -> str:
    """Return 22 characters that are valid in a key: 128 bits of the parts, keyed by the pepper."""
    return _digest(_Process.current.key, parts)


def plain_digest(*parts: str) -> str:
    """Return the digest without a pepper.

    It is for parts that are hashes already or are visible elsewhere.
    """
    return _digest(b"", parts)


def _digest(key: bytes, parts: tuple[str, ...]) -> str:
    raw = blake2b(
        "\x1f".join(parts).encode("utf-8", "surrogatepass"),
        digest_size=16,
        key=key,
    ).digest()
    return urlsafe_b64encode(raw)[:22].decode("ascii")
