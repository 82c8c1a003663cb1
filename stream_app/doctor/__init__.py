"""Check a set-up without spending a credit. `examine` yields one line per check, with a remedy if it fails."""

from stream_app.doctor.checks import Check, examine
from stream_app.doctor.round_trip import RoundTrip, round_trip

__all__ = ["Check", "RoundTrip", "examine", "round_trip"]
