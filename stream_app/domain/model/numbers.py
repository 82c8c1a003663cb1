"""The bounds of numbers in the messages on Kafka, so that every reader of them can work with each.

JSON has no bounds, and neither has `int`. A reader of ours stores numbers in SQLite, which has 64
bits and fails when a sum has more, and shows times by a calendar, which ends in the year 9999. A
message with a number out of these bounds is none of ours: decoding raises one of `UNREADABLE`
(domain/model/untrusted.py), and the reader counts the record and goes on.
"""

from typing import Annotated, Final

import msgspec

MAX_AMOUNT: Final = 10**12
"""The most credits, Actions or leads in one message: nine million of such messages add up within 64
bits.
"""

Whole = Annotated[int, msgspec.Meta(ge=-(2**53), le=2**53)]
"""A whole number, such as an offset or a sum: what every reader of JSON keeps exactly."""

Amount = Annotated[int, msgspec.Meta(ge=-MAX_AMOUNT, le=MAX_AMOUNT)]
"""Credits or Actions of one step, below 0 if some were returned; also a number of leads or rows."""

TimeMs = Annotated[int, msgspec.Meta(ge=0, le=2**46)]
"""A time in epoch ms, or a duration in ms: to the year 4199, so that a time and a duration are a
time, too.
"""

Real = Annotated[float, msgspec.Meta(ge=-(2.0**53), le=2.0**53)]
"""A number that need not be whole, such as a rate."""
