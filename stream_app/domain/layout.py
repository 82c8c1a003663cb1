"""The layout: how many partitions a system has, and over how many of them the names of workspaces are hashed.

See docs/decisions/10-more-partitions.md.
"""

from __future__ import annotations

from typing import Final

import msgspec

LAYOUT_KEY: Final = b"n/layout"
"""The key of the row. Partition 0 has it from its first owner on, each partition of a grown system has it too."""


class Layout(msgspec.Struct, frozen=True):
    """The value of the row. Fields are only ever added.

    Attributes:
        hashed: The number of partitions that names of workspaces are hashed over. It never changes.
        partitions: The number of partitions that an owner of this partition has seen in its configuration. Commands for
            every partition must have been sent to all of them.
    """

    hashed: int
    partitions: int


class Beginning(msgspec.Struct, frozen=True):
    """How a system began, as partition 0 has it.

    Attributes:
        is_new: True if nothing was ever written to partition 0.
        layout: A layout that its owner recorded, the first one that Kafka still has. None: there is none.
        offset: The offset of the layout.
    """

    is_new: bool = False
    layout: Layout | None = None
    offset: int = 0


encode_layout: Final = msgspec.json.Encoder().encode
decode_layout: Final = msgspec.json.Decoder(Layout).decode
