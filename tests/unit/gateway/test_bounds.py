"""The bounds of the gateway are those that its page promises."""

import re
from pathlib import Path
from typing import Final

from stream_app.gateway import holding, lead_bound, receiver

PAGE: Final = Path(__file__).parents[3] / "docs/gateway-bounds.md"
MIB: Final = 2**20


def bound(what: str) -> str:
    """Return the bound of a row of the page's table."""
    [row] = re.findall(rf"^\| {re.escape(what)} \| (.*?) \|", PAGE.read_text(), re.M)
    return str(row)


def test_the_page_tells_the_bounds() -> None:
    assert bound("connections of a gateway") == f"{receiver.MAX_CONNECTIONS:,}"
    assert bound("bodies that a gateway reads and decodes at once") == _mib(
        receiver._MAX_READ_BYTES,
    )
    assert bound("callbacks that wait for Kafka; bytes of their bodies") == (
        f"{holding.MAX_CALLBACKS:,}; {_mib(holding.MAX_CALLBACK_BYTES)}"
    )
    assert bound("callbacks of one lead (of one record, if it is forced)") == (
        f"{lead_bound.AT_ONCE}, and one more every {lead_bound.ONE_MORE_EVERY_S // 60} minutes"
    )
    assert bound("announcements of one run") == (
        f"{lead_bound.AT_ONCE}, and one more every {lead_bound.ONE_MORE_EVERY_S // 60} minutes"
    )
    assert bound("bytes of an announcement of a run") == (
        f"{receiver._MAX_SIGNED_BYTES // 1_024} KiB"
    )
    assert lead_bound.ONE_MORE_EVERY_S % 60 == 0
    assert f"remembers the {lead_bound.MAX_LEADS:,} leads" in PAGE.read_text()
    assert f"takes {lead_bound.AT_ONCE} callbacks of a lead at once" in PAGE.read_text()
    assert lead_bound.AT_ONCE * lead_bound.ONE_MORE_EVERY_S == 86_400, "and as many more a day"


def _mib(size: int) -> str:
    assert size % MIB == 0
    return f"{size // MIB} MiB"
