"""Checks that a secret of ours is hard to guess. Error texts never repeat the secret.

No rule can prove that a text is random. These refuse common substitutes for a random text: values from public files,
one repeated character, a repeated short text, and a run along the alphabet.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Final

MIN_CHARACTERS: Final = 32
HOW_TO_MAKE: Final = 'make one with: python3 -c "import secrets; print(secrets.token_urlsafe(32))"'

_MIN_DIFFERENT: Final = 8  # 32 random hex digits have 14 different ones on average, fewer than 8 once in 10^9
_PUBLIC: Final = frozenset(
    {
        "only for the simulator, change it for the real Clay",
        "only-for-the-simulator-change-it-for-the-real-Clay",
        "any-text-of-32-characters-or-more",
    }
)
"""Values that were published in this repository: docker-compose.yml and README."""


def is_public(secret: str) -> bool:
    """Return True if the value is in the history of this project."""
    return secret in _PUBLIC


def secret_problem(secret: str) -> str | None:
    """Return why a secret is easy to guess and what to do about it; None if no rule is broken."""
    if len(secret) < MIN_CHARACTERS:
        return f"must have at least {MIN_CHARACTERS} characters; {HOW_TO_MAKE}"
    if len(set(secret)) < _MIN_DIFFERENT or _repeats(secret) or _is_a_run(secret):
        return f"is easy to guess (it repeats itself or follows the alphabet); {HOW_TO_MAKE}"
    return None


def _repeats(secret: str) -> bool:
    """Return True if the secret is a repetition of a text of at most half its length."""
    return any(secret[:-period] == secret[period:] for period in range(1, len(secret) // 2 + 1))


def _is_a_run(secret: str) -> bool:
    """Return True if most characters equal the one before or are its neighbour in the alphabet."""
    near = sum(abs(ord(one) - ord(other)) <= 1 for one, other in pairwise(secret))
    return near * 2 > len(secret)
