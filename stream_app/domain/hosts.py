"""Tells host names and addresses of this machine from others."""

from __future__ import annotations

from ipaddress import ip_address


def is_loopback(host: str) -> bool:
    """Return True if the name or address always means this machine."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_local(host: str) -> bool:
    """Return True for this machine and for names without a dot, such as a container's name in its network."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return "." not in host
