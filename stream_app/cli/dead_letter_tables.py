"""Tables of dead letters: by cause, and one row each."""

from __future__ import annotations

from collections.abc import Sequence

from stream_app.cli.options import iso
from stream_app.cli.tables import Column, Table
from stream_app.domain.dead_letter.causes import Group
from stream_app.replay.inspect import Listed


def tally_table(groups: Sequence[Group]) -> Table:
    """Build the table of dead letters by cause."""
    table = Table(
        Column("dead letters", right=True),
        Column("reason"),
        Column("destination", rank=1),
        Column("disposition", rank=4),
        Column("last hour", rank=5),
        Column("first", rank=6),
        Column("last", rank=2),
        Column("says", rank=3, prose=True),
    )
    for group in groups:
        said = group.texts.most_common(1)
        table.add(
            f"{group.count:,}",
            group.reason or "none given",
            group.destination or group.workspace,
            group.kind,
            f"{group.last_hour:,} ({group.trend})",
            iso(group.first_ms),
            iso(group.last_ms),
            said[0][0] if said else "",
        )
    return table


def list_table(dead_letters: Sequence[Listed]) -> Table:
    """Build the table of single dead letters, each with the record id that `dlq show` takes."""
    table = Table(
        Column("record"),
        Column("reason"),
        Column("lead", rank=2),
        Column("destination", rank=3),
        Column("disposition", rank=5),
        Column("written", rank=1),
        Column("says", rank=4, prose=True),
    )
    for each in dead_letters:
        where = each.destination or each.workspace
        reason = each.reason or "none given"
        table.add(each.record_id, reason, each.lead_id, where, each.kind, iso(each.at_ms), each.text)
    return table
