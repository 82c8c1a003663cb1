"""Which host names and addresses only this machine reaches."""

from __future__ import annotations

from ipaddress import ip_address


def is_loopback(host: str) -> bool:
    """True if the name or address always means this machine."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_local(host: str) -> bool:
    """True for this machine and for names without a dot, such as the simulator's in a container network."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return "." not in host
