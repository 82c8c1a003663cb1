"""The layout: how many partitions a system has, and over how many of them the names of workspaces are hashed.

A system whose partitions never grew has no such row. See docs/decisions/10-more-partitions.md.
"""

from __future__ import annotations

from typing import Final

import msgspec

LAYOUT_KEY: Final = b"n/layout"
"""The key of the row, which each partition of a grown system has."""


class Layout(msgspec.Struct, frozen=True):
    """The value of the row. Fields are only ever added.

    Attributes:
        hashed: The number of partitions that names of workspaces are hashed over. It never changes.
        partitions: The number of partitions that an owner of this partition has seen in its configuration. Commands for
            every partition must have been sent to all of them.
    """

    hashed: int
    partitions: int


encode_layout: Final = msgspec.json.Encoder().encode
decode_layout: Final = msgspec.json.Decoder(Layout).decode
