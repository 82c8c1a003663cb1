"""The time at which the scene of the board stands."""

from typing import Final

NOW_MS: Final = 1_790_002_320_000  # 2026-09-21 14:52:00 UTC
MINUTE_MS: Final = 60_000
HOUR_MS: Final = 3_600_000
DAY_MS: Final = 86_400_000
