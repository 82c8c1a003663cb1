"""Validates tokens, and URLs of webhooks and proxies. All are secrets: error texts never repeat them."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Final
from urllib.parse import unquote, urlsplit

from stream_app.domain.hosts import is_local

WEBHOOK_PATH: Final = "/v3/sources/webhook/"
MALFORMED: Final = "the webhook's URL is malformed: copy it from Clay again"


def webhook_id(url: str) -> str:
    """Return a short name for a webhook. The URL is secret; the name may appear in rows, logs and metrics."""
    return blake2b(url.encode(), digest_size=6).hexdigest()


def setup_id(*secrets: str) -> str:
    """Return a fingerprint of a destination's URLs and token. It changes with any of them and reveals none."""
    return blake2b("\n".join(secrets).encode(), digest_size=6).hexdigest()


def webhook_problem(url: str, allowed_hosts: Sequence[str]) -> str | None:
    """Return what is wrong with a webhook's URL, or None.

    Plain http is allowed only for this machine and for names without a dot (the simulator in a container), because it
    sends the token and the lead unencrypted.

    Args:
        url: The URL.
        allowed_hosts: `host` (any port) or `host:port`, in lower case.
    """
    if not url.isascii() or not url.isprintable() or " " in url:
        return "the webhook's URL has spaces or characters outside ASCII: copy it from Clay again"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return MALFORMED
    if parts.scheme not in ("https", "http") or (parts.scheme == "http" and not is_local(host)):
        return "the webhook's URL must begin with https:// (http:// only for this machine and for names without a dot)"
    if "@" in parts.netloc or "?" in url or parts.fragment:
        return "the webhook's URL must have no user, password, ?query or #fragment: the token has its own setting"
    if host not in allowed_hosts and f"{host}:{port}" not in allowed_hosts:
        return f"the webhook's host must be one of allowed_hosts ({', '.join(allowed_hosts)})"
    if not parts.path.startswith(WEBHOOK_PATH) or parts.path == WEBHOOK_PATH:
        return f"the webhook's path must be {WEBHOOK_PATH}<slug>"
    if any(step in (".", "..") for step in unquote(unquote(parts.path)).replace("\\", "/").split("/")):
        return f"the webhook's path must have no . or .. step: they lead away from {WEBHOOK_PATH}"
    return None


def token_problem(token: str) -> str | None:
    """Return why a token cannot be sent as a header, or None."""
    if token and token.isascii() and token.isprintable() and token == token.strip():
        return None
    return "the webhook's token must be printable ASCII without spaces around it: copy it from Clay again"


def proxy_problem(url: str) -> str | None:
    """Return what is wrong with the URL of an egress proxy, or None. The URL may hold a password."""
    wanted = "the proxy's URL must be like http://user:password@proxy.example.com:3128"
    try:
        parts = urlsplit(url)
        complete = parts.hostname and parts.port
    except ValueError:
        return f"{wanted}; write special characters of user and password as %XX"
    if not url.isascii() or not url.isprintable() or " " in url or not complete:
        return f"{wanted}; write special characters of user and password as %XX"
    if parts.scheme != "http":
        return f"{wanted}: an HTTP proxy, which passes TLS on by CONNECT"
    return None if parts.path in ("", "/") and not (parts.query or parts.fragment) else wanted


def messages_problem(url: str) -> str | None:
    """Return what is wrong with the URL of the webhook for messages, or None."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        return "the URL for messages is malformed: copy it again"
    if not (url.isascii() and url.isprintable() and " " not in url and host):
        return "the URL for messages must be like https://hooks.example.com/services/..., without spaces"
    if parts.scheme != "https" and not (parts.scheme == "http" and is_local(host)):
        return "the URL for messages must begin with https:// (http:// only for this machine and names without a dot)"
    return None
