"""Tells host names and addresses of this machine from others."""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import urlsplit


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
    """Return True for this machine and for names without a dot, such as a container's name in its network."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return "." not in host
