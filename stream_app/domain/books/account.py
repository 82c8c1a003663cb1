"""The account: which record counts for a lead, and what has become of a dead letter.

A lead is what its workspace, destination and id name. It may have many records: copies, strays, dead letters that were
sent back. It is counted once, with the status of the record that took its row last. The read model keeps the account,
and its pages, the API and the commands show it.
"""

from collections.abc import Iterable
from typing import Final, Literal, get_args

from stream_app.domain.books.records import MOVING, NOT_LEADS, RecordHistory, column

Rank = Literal[0, 1, 2, 3]
NO_LEAD: Final[Rank] = 0
"""A callback or a command."""
COPY: Final[Rank] = 1
"""Another record counts for its lead, or it is on its way to its partition."""
ENDED: Final[Rank] = 2
"""It ended before it took the row of its lead."""
TOOK: Final[Rank] = 3
"""It took the row of its lead."""

DeadLetterState = Literal["open", "coming_back", "solved", "given_up"]
STATES: Final[tuple[DeadLetterState, ...]] = get_args(DeadLetterState)
STATE_MEANING: Final[dict[DeadLetterState, str]] = {
    "open": "waiting for a person",
    "coming_back": "on the way back, or coming back without a person",
    "solved": "lead delivered or published again, or with a later dead letter, which counts",
    "given_up": "lead not to be sent any more",
}
_COPIES: Final = frozenset({"duplicate", "rerouted"})
_AT_ONCE: Final = frozenset({"rejected_invalid", "suppressed", "parked"})
"""How a record may end before it takes a row, as its first or, after a detour, its second event."""
_ANEW: Final = frozenset({"dead_lettered", "parked", "rejected_invalid", "replaced", "duplicate"})
"""Another dead letter or another record stands for the lead."""
_GIVEN_UP: Final = frozenset({"suppressed", "expired"})


class Kept(RecordHistory, array_like=True, gc=False):
    """A record as the account keeps it.

    Attributes:
        imported: The number of its import; 0 for none.
        letter: The number of the dead letter that it is a copy of; 0 for none.
        rank: How it stands to the row of its lead.
        took: The place of the event by which it got its rank, in its partition of `leads.status`.
        counts: Whether it is the record that counts for its lead.
        of_import: Whether it is the record that counts for its lead among those of its import.
        follows: Whether it counts in place of another record of its lead, which may have dead letters.
    """

    imported: int = 0
    letter: int = 0
    rank: Rank = NO_LEAD
    took: int = 0
    counts: bool = False
    of_import: bool = False
    follows: bool = False


def rank_of(history: RecordHistory) -> Rank:
    """Return how a record stands to the row of its lead after its last event. It never falls."""
    if history.status in NOT_LEADS:
        return NO_LEAD
    if history.status in _COPIES:
        return COPY
    return ENDED if history.status in _AT_ONCE and history.seq <= 2 else TOOK


def elect(records: Iterable[tuple[int, Kept]]) -> set[int]:
    """Return the numbers of the records that count, of those with the same lead id: one for each destination.

    A record that names no destination, because it could not be read, counts only if no other record does.
    """
    best: dict[tuple[str, str], tuple[Rank, int, int]] = {}
    for number, kept in records:
        place, standing = (kept.workspace, kept.destination), (kept.rank, kept.took, number)
        if kept.rank is not NO_LEAD and standing > best.get(place, (NO_LEAD, 0, 0)):
            best[place] = standing
    workspaces = {workspace for workspace, destination in best if destination}
    return {
        number
        for (workspace, destination), (_, _, number) in best.items()
        if destination or (workspace not in workspaces if workspace else len(best) == 1)
    }


def is_same_lead(kept: Kept, champion: Kept) -> bool:
    """Return True if two records belong to one lead. The first may name no destination."""
    return kept.workspace in ("", champion.workspace) and kept.destination in ("", champion.destination)


def is_at_rest(status: str, *, final: bool) -> bool:
    """Return True if a lead with this status is done with. `final`: its destination has no callbacks."""
    name = column(status, final=final)
    return name not in MOVING and name not in ("", "unknown")


def state_of(
    seq: int, returns: bool, own: tuple[str, int] | None, follower: str | None, *, final: bool
) -> DeadLetterState:
    """Return what has become of a dead letter.

    Args:
        seq: The sequence number of the event with which it was written.
        returns: It comes back by itself.
        own: The status of its record now, and the sequence number; None if it is not known.
        follower: The status of the record that stands for it now: its copy, or a later record of its lead. None: none.
        final: The destination of that record has no callbacks.
    """
    status = own[0] if own is not None and own[1] > seq else follower
    if status is None:
        return "coming_back" if returns else "open"
    if status in _GIVEN_UP:
        return "given_up"
    return "solved" if status in _ANEW or is_at_rest(status, final=final) else "coming_back"
