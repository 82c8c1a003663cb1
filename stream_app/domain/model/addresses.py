"""Validates what an operator enters as an address or a secret. Error texts never repeat it.

No rule can prove that a secret of ours is random. These refuse common substitutes for a random
text: values from public files, one repeated character, a repeated short text, and a run along the
alphabet.
"""

import re
from collections.abc import Sequence
from hashlib import blake2b
from ipaddress import ip_address
from itertools import pairwise
from typing import Final, Literal
from urllib.parse import unquote, urlsplit

WebhookKind = Literal["table", "workflow"]
"""What a webhook starts: a row of a table, or a run of a workflow."""

DestinationKind = WebhookKind | Literal["routine"]
"""What a destination starts. A routine is started through Clay's Public API, without a webhook."""

API_URL: Final = "https://api.clay.com/public/v0"

WEBHOOK_PATH: Final = "/v3/sources/webhook/"
WORKFLOW_PATH: Final = "/v3/tc-workflows/streams/<id>/webhook"
MALFORMED: Final = "the webhook's URL is malformed: copy it from Clay again"

_WORKFLOW: Final = re.compile(re.escape(WORKFLOW_PATH).replace("<id>", "([^/]+)"))
_ROUTINE: Final = re.compile(r"(?:function:t|workflow:wf)_[A-Za-z0-9_-]+")
_LABEL: Final = re.compile(r"[A-Za-z0-9_-]+")
_NUMBER: Final = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")
MIN_SECRET_CHARACTERS: Final = 32
# Of the id of a routine, a completion webhook, or an item of a run.
MAX_ID_CHARACTERS: Final = 64
HOW_TO_MAKE: Final = 'make one with: python3 -c "import secrets; print(secrets.token_urlsafe(32))"'
# 32 random hex digits have 14 different ones on average, and fewer than 8 once in 10^9.
_MIN_DIFFERENT_CHARACTERS: Final = 8

PUBLIC_SECRETS: Final = frozenset(
    {
        "only for the simulator, change it for the real Clay",
        "only-for-the-simulator-change-it-for-the-real-Clay",
        "any-text-of-32-characters-or-more",
    },
)
"""Values that were published in this repository: docker-compose.yml and README."""


def webhook_id(url: str) -> str:
    """Return a short name for a webhook.

    The URL is secret; the name may appear in rows, logs and metrics.
    """
    return blake2b(url.encode(), digest_size=6).hexdigest()


def webhook_kind(url: str) -> WebhookKind:
    """Return what the webhook of a valid URL starts."""
    return "workflow" if _WORKFLOW.fullmatch(urlsplit(url).path) else "table"


def secret_part(url: str) -> str:
    """Return the secret part of a webhook's path: a table's slug, or the id of a workflow's stream.

    `.../webhook/<slug>` is a table's, `.../<id>/webhook` a workflow's. A slash at the end is no
    part of it.
    """
    *_, before, last = ["", *url.rstrip("/").split("/")]
    return before if last == "webhook" else last


def setup_id(*secrets: str) -> str:
    """Return a fingerprint of a destination's URLs and token.

    It changes with any of them and reveals none.
    """
    return blake2b("\n".join(secrets).encode(), digest_size=6).hexdigest()


def webhook_problem(url: str, allowed_hosts: Sequence[str]) -> str | None:
    """Return what is wrong with a webhook's URL, or None. `allowed_hosts`: see `_place_problem`."""
    if problem := _place_problem(url, allowed_hosts, "the webhook's", "token"):
        return problem
    parts = urlsplit(url)
    if _WORKFLOW.fullmatch(parts.path):
        return None
    if _WORKFLOW.fullmatch(f"/v3{parts.path}"):
        return (
            "the webhook of a workflow must have /v3 before its path "
            f"({WORKFLOW_PATH}): without it Clay answers 404"
        )
    if not parts.path.startswith(WEBHOOK_PATH) or parts.path == WEBHOOK_PATH:
        return (
            f"the webhook's path must be {WEBHOOK_PATH}<slug>, or {WORKFLOW_PATH} for that of a "
            "workflow"
        )
    return None


def api_problem(url: str, allowed_hosts: Sequence[str]) -> str | None:
    """Return what is wrong with the address of Clay's Public API, or None.

    `allowed_hosts`: see `_place_problem`.
    """
    return _place_problem(url, allowed_hosts, "the API's", "key")


def _place_problem(
    url: str,
    allowed_hosts: Sequence[str],
    whose: str,
    secret: str,
) -> str | None:
    """Return why leads must not be sent to this URL, or None.

    Plain http is allowed only for this machine and for names without a dot (the simulator in a
    container), because it sends the secret and the lead unencrypted. `allowed_hosts` are `host`
    (any port) or `host:port`, in lower case.
    """
    if not url.isascii() or not url.isprintable() or " " in url:
        return f"{whose} URL has spaces or characters outside ASCII: copy it from Clay again"
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        port = parts.port
    except ValueError:
        return f"{whose} URL is malformed: copy it from Clay again"
    if parts.scheme not in ("https", "http") or (parts.scheme == "http" and not is_local(host)):
        return (
            f"{whose} URL must begin with https:// (http:// only for this machine and for "
            "names without a dot)"
        )
    if "@" in parts.netloc or "?" in url or parts.fragment:
        return (
            f"{whose} URL must have no user, password, ?query or #fragment: the {secret} has "
            "its own setting"
        )
    if host not in allowed_hosts and f"{host}:{port}" not in allowed_hosts:
        return f"{whose} host must be one of allowed_hosts ({', '.join(allowed_hosts)})"
    if any(
        step in (".", "..") for step in unquote(unquote(parts.path)).replace("\\", "/").split("/")
    ):
        return f"{whose} path must have no . or .. step: they lead away from Clay"
    return None


def routine_problem(routine: str) -> str | None:
    """Return what is wrong with the id of a routine, or None."""
    if _ROUTINE.fullmatch(routine) and len(routine) <= MAX_ID_CHARACTERS:
        return None
    return (
        f"must be the id of a routine, function:t_... or workflow:wf_..., of at most "
        f"{MAX_ID_CHARACTERS} characters: copy it from Clay"
    )


def run_webhook_problem(name: str) -> str | None:
    """Return what is wrong with the id of a completion webhook, or None."""
    if _LABEL.fullmatch(name) and len(name) <= MAX_ID_CHARACTERS:
        return None
    return (
        f"must be the id of a completion webhook, such as wh_..., of at most {MAX_ID_CHARACTERS} "
        "characters: `clay webhooks create` shows it"
    )


def key_problem(key: str) -> str | None:
    """Return why a key of the Public API cannot be sent as a header, or None."""
    if key and key.isascii() and key.isprintable() and " " not in key:
        return None
    return "the API's key must be printable ASCII without spaces: copy it from Clay again"


def token_problem(token: str) -> str | None:
    """Return why a token cannot be sent as a header, or None."""
    if token and token.isascii() and token.isprintable() and token == token.strip():
        return None
    return (
        "the webhook's token must be printable ASCII without spaces around it: copy it from Clay "
        "again"
    )


def proxy_problem(url: str) -> str | None:
    """Return what is wrong with the URL of an egress proxy, or None.

    The URL may hold a password.
    """
    wanted = "the proxy's URL must be like http://user:password@proxy.example.com:3128"
    try:
        parts = urlsplit(url)
        complete = (
            parts.hostname and parts.port and url.isascii() and url.isprintable() and " " not in url
        )
    except ValueError:
        complete = False
    if not complete:
        return f"{wanted}; write special characters of user and password as %XX"
    if parts.scheme != "http":
        return f"{wanted}: an HTTP proxy, which passes TLS on by CONNECT"
    return None if parts.path in ("", "/") and not (parts.query or parts.fragment) else wanted


def messages_problem(url: str) -> str | None:
    """Return what is wrong with the URL of the webhook for messages, or None."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        _ = parts.port
    except ValueError:
        return "the URL for messages is malformed: copy it again"
    if not (url.isascii() and url.isprintable() and " " not in url and host):
        return (
            "the URL for messages must be like https://hooks.example.com/services/..., without "
            "spaces"
        )
    if parts.scheme != "https" and not (parts.scheme == "http" and is_local(host)):
        return (
            "the URL for messages must begin with https:// (http:// only for this machine and "
            "names without a dot)"
        )
    return None


def is_loopback(host: str) -> bool:
    """Return True if the name or address always means this machine."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_loopback_url(url: str) -> bool:
    """Return True if the host of the URL always means this machine."""
    return is_loopback(urlsplit(url).hostname or "")


def is_local(host: str) -> bool:
    """Return True for this machine and for names without a dot.

    Such a name is that of a container in its network. The resolver takes a number such as
    2130706433 or 0x7f000001 as the address of any host.
    """
    return is_loopback(host) or bool(_LABEL.fullmatch(host) and not _NUMBER.fullmatch(host))


def secret_problem(secret: str) -> str | None:
    """Return why a secret is easy to guess and what to do about it; None if no rule is broken."""
    if len(secret) < MIN_SECRET_CHARACTERS:
        return f"must have at least {MIN_SECRET_CHARACTERS} characters; {HOW_TO_MAKE}"
    repeats = any(secret[:-period] == secret[period:] for period in range(1, len(secret) // 2 + 1))
    # Most characters equal the one before, or are its neighbour in the alphabet.
    is_a_run = 2 * sum(abs(ord(one) - ord(other)) <= 1 for one, other in pairwise(secret)) > len(
        secret,
    )
    if len(set(secret)) < _MIN_DIFFERENT_CHARACTERS or repeats or is_a_run:
        return f"is easy to guess (it repeats itself or follows the alphabet); {HOW_TO_MAKE}"
    return None
