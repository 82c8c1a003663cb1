"""Is a secret that we chose hard to guess? What is wrong is said without repeating the secret.

No rule can prove that a text is random. These refuse what people write in place of a random one: values from public
files, one character again and again, a short text repeated, a run along the alphabet.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Final

MIN_CHARACTERS: Final = 32
HOW_TO_MAKE: Final = 'make one with: python3 -c "import secrets; print(secrets.token_urlsafe(32))"'

_MIN_DIFFERENT: Final = 8  # of 32 random hex digits, 14 differ on average and fewer than 8 once in 10^9
_PUBLIC: Final = frozenset(
    {
        "only for the simulator, change it for the real Clay",
        "only-for-the-simulator-change-it-for-the-real-Clay",
        "any-text-of-32-characters-or-more",
    }
)
"""Values that stood in this repository: docker-compose.yml and README."""


def is_public(secret: str) -> bool:
    """True if anybody can read the value in this project's history."""
    return secret in _PUBLIC


def secret_problem(secret: str) -> str | None:
    """Why a secret is easy to guess, with what to do about it; None where nothing is wrong."""
    if len(secret) < MIN_CHARACTERS:
        return f"must have at least {MIN_CHARACTERS} characters; {HOW_TO_MAKE}"
    if len(set(secret)) < _MIN_DIFFERENT or _repeats(secret) or _is_a_run(secret):
        return f"is easy to guess (it repeats itself or follows the alphabet); {HOW_TO_MAKE}"
    return None


def _repeats(secret: str) -> bool:
    """True if it is a text of at most half its length, again and again."""
    return any(secret[:-period] == secret[period:] for period in range(1, len(secret) // 2 + 1))


def _is_a_run(secret: str) -> bool:
    """True if most characters are a neighbour of the one before, or the same."""
    near = sum(abs(ord(one) - ord(other)) <= 1 for one, other in pairwise(secret))
    return near * 2 > len(secret)
