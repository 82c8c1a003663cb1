"""What a namespace began with: its partitions, its pepper, and whether it hashes every lead id.

None can change later.

Names of workspaces are hashed over the partitions, and people and lead ids are hashed with the
pepper. With another of these the same lead would have another row, so it would be sent and paid for
again, and the suppression list would name people whom nothing matches. So the first step of each
partition writes a row with all, before anything else that it writes. It is never written again: its
key has one record, which compaction keeps at its place. So it stays the first record of its
partition, and a process finds out at its start what the namespace began with.

The row has a version, so that a program refuses a namespace of a build that it does not know,
instead of misreading it.
"""

from typing import Final

import msgspec

from stream_app.domain.model.numbers import Whole
from stream_app.domain.model.pseudonyms import current, fingerprint
from stream_app.domain.model.topics import MORE_PARTITIONS

SYSTEM_KEY: Final = b"n/system"  # the key of the row

SYSTEM_VERSION: Final = 1
"""The version of the row. A row without one is of a build before the first release that had it."""

_EARLIER: Final = (
    "it has rows that were written by an earlier build, which this one cannot continue: "
    "drain it with that "
    "build, or take a new kafka.namespace (docs/sizing.md, More partitions)"
)
_PEPPER: Final = (
    "or take a new kafka.namespace: no hash that was made with another pepper is recognised"
)


class SystemRow(msgspec.Struct, frozen=True):
    """The value of the row. `pepper`: the fingerprint of the pepper; None: there is none."""

    version: Whole
    partitions: Whole
    pepper: str | None = None
    hash_lead_ids: bool = False


class _Versioned(msgspec.Struct, frozen=True):
    """The field that is read before all others, because a later version may have changed those."""

    version: int = 0


_encode: Final = msgspec.json.Encoder().encode
_decode_version: Final = msgspec.json.Decoder(_Versioned).decode
_decode: Final = msgspec.json.Decoder(SystemRow).decode


def system_row(partitions: int) -> bytes:
    """Return the row that a namespace gets which begins with the settings of this process."""
    return _encode(SystemRow(SYSTEM_VERSION, partitions, fingerprint(), current().hash_lead_ids))


def deletion_problem(begin: int) -> str:
    """Say what is wrong with a partition of the state whose first offset is not 0.

    It is '' if nothing is wrong. Compaction leaves the first offset where it is. Only retention, or
    Kafka's own tool, removes records from there.
    """
    if not begin:
        return ""
    return (
        f"it begins at offset {begin}, so rows were deleted: its cleanup.policy was delete, "
        "or records were deleted by "
        "hand. Which leads were sent is not known any more, so a lead that comes again would "
        "be paid for again: take a "
        "new kafka.namespace (docs/backup.md, stream-app-state is gone)"
    )


def system_problem(key: bytes | None, value: bytes | None, partitions: int) -> str:
    """Compare the first record of a partition with the settings of this process.

    Returns:
        What differs and what to do, in one line; '' if nothing differs.
    """
    if key != SYSTEM_KEY or value is None:
        return _EARLIER
    try:
        if (version := _decode_version(value).version) > SYSTEM_VERSION:
            return (
                f"its row {SYSTEM_KEY.decode()} has version {version}, and this program "
                f"reads up to {SYSTEM_VERSION}: "
                "run the later version that began this namespace, or take a new kafka.namespace"
            )
        if version < 1:
            return _EARLIER
        began = _decode(value)
    except msgspec.DecodeError as error:
        return f"its row {SYSTEM_KEY.decode()} cannot be read: {error}; restore it"
    if began.partitions != partitions:
        return (
            f"kafka.partitions = {partitions}, and this namespace began with {began.partitions}: "
            f"{MORE_PARTITIONS}"
        )
    if began.hash_lead_ids != current().hash_lead_ids:
        return (
            "privacy.hash_lead_ids is changed, and this namespace began with "
            f"{str(began.hash_lead_ids).lower()}: set that, or take a new "
            "kafka.namespace: a lead that comes again would have another id and be paid for again"
        )
    now = fingerprint()
    if now == began.pepper:
        return ""
    if began.pepper is None:
        return (
            "privacy.pepper_env is set, and this namespace began without a pepper: remove it, "
            f"{_PEPPER}"
        )
    if now is None:
        return (
            "privacy.pepper_env is not set, and this namespace began with a pepper: set it, "
            f"{_PEPPER}"
        )
    return (
        "the pepper of privacy.pepper_env is not the one that this namespace began with: set "
        f"that, {_PEPPER}"
    )
