"""Tells host names and addresses of this machine from others."""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

_LABEL: Final = re.compile(r"[A-Za-z0-9_-]+")
_NUMBER: Final = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")


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
    """Return True for this machine and for names without a dot, such as a container's name in its network.

    The resolver takes a number such as 2130706433 or 0x7f000001 as the address of any host.
    """
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return bool(_LABEL.fullmatch(host)) and not _NUMBER.fullmatch(host)
