"""The completion webhook of Clay's Public API, which announces that a run has finished.

    {"webhookId": "wh_1", "createdAt": "...", "data": {"routine_run_id": "r1"}}

`clay webhooks test` sends the same with an empty `data`. The header X-Clay-Signature signs the raw
body: `sha256=<hex>`, HMAC-SHA256 with the secret that `clay webhooks create` printed. No time is
signed, so an announcement can be sent again by anyone who has seen it, and must do no harm then.
"""

import hmac
import re
from collections.abc import Iterable
from hashlib import sha256
from typing import Final

import msgspec

from stream_app.domain.model.run import is_run_id
from stream_app.domain.model.untrusted import decode

RUN_PATH: Final = "/run"
"""The last step of the path that is called, behind workspace and destination."""

RUN_SIGNATURE: Final = "x-clay-signature"
_SIGNATURE: Final = re.compile(r"sha256=[0-9a-fA-F]{64}")


class _Data(msgspec.Struct, frozen=True):
    routine_run_id: str | None = None


class _Announcement(msgspec.Struct, frozen=True):
    data: _Data


class RunTest(msgspec.Struct, frozen=True):
    """The webhook was tried: no run has finished."""


_decoder: Final = msgspec.json.Decoder(_Announcement)


def sign_run(raw: bytes, secret: bytes) -> str:
    """Return the signature of a body, as the header has it."""
    return f"sha256={hmac.new(secret, raw, sha256).hexdigest()}"


def is_signature(text: str) -> bool:
    """Return whether a header can be a signature at all."""
    return _SIGNATURE.fullmatch(text) is not None


def is_signed(signature: str, raw: bytes, secrets: Iterable[bytes]) -> bool:
    """Return whether one of the secrets has signed this body. All are tried, in constant time."""
    given = signature.lower().encode("ascii", "replace")
    good = [hmac.compare_digest(given, sign_run(raw, secret).encode()) for secret in secrets]
    return any(good)


def announced_run(raw: bytes) -> str | RunTest | None:
    """Return the id of the run that a body announces, or that it is a test. None: it is neither."""
    try:
        run = decode(_decoder, raw).data.routine_run_id
    except ValueError:
        return None
    if run is None:
        return RunTest()
    return run if is_run_id(run) else None
