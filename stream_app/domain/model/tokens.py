"""The token of a callback. It proves that the caller received the lead from us.

Clay does not sign its requests, it only echoes values. So each lead carries a token that its row's
HTTP column sends back. The token is bound to the workspace, the destination and the lead id. Its
text:

    <key id>.<mac>                       base64url, HMAC-SHA256
    <key id>.<mac>.<origin, base64url>   of a forced lead: one delivery for each record
    (domain/delivery/resolve.py)

It holds no time: a callback may come days late, and clocks need not agree.
"""

import binascii
import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from hashlib import sha256
from typing import Final, Literal

import msgspec

TokenProblem = Literal["malformed", "unknown_key", "mismatch"]
"""Why a token is invalid: malformed, signed by an unknown or retired key, or made for another lead.
"""

_MAX_TOKEN_CHARACTERS: Final = 1_024


class Verified(msgspec.Struct, frozen=True):
    """A valid token. `forced_origin`: of a forced lead, else ""."""

    forced_origin: str


class Keys:
    """The signing secrets, in order.

    The first one signs and all of them verify, so that they can be rotated.

    A key's id is a fingerprint of its secret, so it does not depend on the variable that holds the
    secret.
    """

    def __init__(self, secrets: Sequence[str]) -> None:
        if not secrets:
            raise ValueError("the list of signing keys is empty: give at least one")
        self.by_id = {
            sha256(b"stream-app key id 1:" + secret.encode()).hexdigest()[:8]: secret.encode()
            for secret in secrets
        }
        self.first = next(iter(self.by_id))  # the id of the key that signs

    def __repr__(self) -> str:
        return f"Keys({', '.join(self.by_id)})"


def sign(
    keys: Keys,
    workspace: str,
    destination: str,
    lead_id: str,
    forced_origin: str = "",
) -> str:
    """Return the token of a lead. `forced_origin`: the origin of a forced lead's record."""
    return _token(
        keys.first,
        keys.by_id[keys.first],
        (workspace, destination, lead_id, forced_origin),
    )


def problem_of(keys: Keys, token: str) -> TokenProblem | None:
    """Return why a token cannot be valid for any lead; None if it may be valid for one.

    This is as much as the token shows before the lead is known.
    """
    parts = _parts(keys, token)
    return parts if isinstance(parts, str) else None


def verify(
    keys: Keys,
    token: str,
    workspace: str,
    destination: str,
    lead_id: str,
) -> Verified | TokenProblem:
    """Verify that the token belongs to this lead, in constant time."""
    parts = _parts(keys, token)
    if isinstance(parts, str):
        return parts
    key_id, secret, origin = parts
    wanted = _token(key_id, secret, (workspace, destination, lead_id, origin))
    return Verified(origin) if hmac.compare_digest(_bytes(wanted), _bytes(token)) else "mismatch"


def _parts(keys: Keys, token: str) -> tuple[str, bytes, str] | TokenProblem:
    """Return what a token consists of, or what is wrong with it.

    Returns:
        The id of the key, its secret, and the origin of a forced lead.
    """
    key_id, _, rest = token.partition(".")
    mac, forced, encoded = rest.partition(".")
    origin = _decoded(encoded) if forced else ""
    if len(token) > _MAX_TOKEN_CHARACTERS or not mac or origin is None:
        return "malformed"
    secret = keys.by_id.get(key_id)
    return "unknown_key" if secret is None else (key_id, secret, origin)


def _token(key_id: str, secret: bytes, claims: tuple[str, str, str, str]) -> str:
    # Each part is preceded by its length, so that no two leads share one text to sign.
    text = b"".join(
        b"%d:%b" % (len(part), part) for part in map(_bytes, ("stream-app callback 1", *claims))
    )
    parts = [key_id, _base64(hmac.digest(secret, text, sha256))]
    return ".".join([*parts, _base64(_bytes(claims[-1]))] if claims[-1] else parts)


def _base64(value: bytes) -> str:
    return urlsafe_b64encode(value).decode("ascii").rstrip("=")


def _decoded(text: str) -> str | None:
    try:
        return urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()
    except (binascii.Error, ValueError):
        return None


def _bytes(text: str) -> bytes:
    """Encode text that may hold half a surrogate pair, which JSON allows."""
    return text.encode("utf-8", "surrogatepass")
