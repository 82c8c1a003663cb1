"""Seeded randomness: every draw is a hash of the seed and of the subject of the draw.

No generator state advances, so the outcome for one lead does not depend on the requests before it.
"""

from __future__ import annotations

from hashlib import blake2b
from math import exp, log
from statistics import NormalDist

from stream_app.dev.simulator.script import Latency

_MANTISSA_BITS = 53
_Z95 = NormalDist().inv_cdf(0.95)


def digest(data: bytes) -> int:
    """Return a 64-bit name for some bytes, to store instead of the bytes."""
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "big")


class Chance:
    """Draws for one seed."""

    def __init__(self, seed: int) -> None:
        self._key = str(seed).encode()[:64]

    def draw(self, *about: object) -> float:
        """Return a number in [0, 1), always the same for the same seed and `about`."""
        text = "\x1f".join(map(str, about)).encode("utf-8", "surrogatepass")
        hashed = blake2b(text, digest_size=8, key=self._key).digest()
        return (int.from_bytes(hashed, "big") >> (64 - _MANTISSA_BITS)) / 2.0**_MANTISSA_BITS

    def pick(self, count: int, *about: object) -> int:
        """Return an index in [0, count)."""
        return int(self.draw(*about) * count)

    def latency_s(self, latency: Latency, *about: object) -> float:
        """Return the duration of a row in seconds: log-normal, with a share of slow research rows."""
        if latency.scale == 0:
            return 0.0
        if self.draw("slow row", *about) < latency.slow_share:
            return latency.scale * latency.slow_s * (0.5 + self.draw("slow row takes", *about))
        sigma = log(latency.p95_s / latency.median_s) / _Z95
        z = NormalDist().inv_cdf(max(self.draw("row takes", *about), 1e-9))
        return latency.scale * max(latency.min_s, latency.median_s * exp(sigma * z))
