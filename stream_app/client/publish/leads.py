"""Publishes leads.

Their rows are checked, priced, kept in a temporary file, and then sent with the counts of the
import. They are read exactly as the worker reads them. `await publish(leads, settings)` does it all
for Python programs; `check_rows` with `send_batch` are its two halves, for files.
"""

import asyncio
import difflib
import re
import secrets
import shlex
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any, Final

import msgspec

from stream_app.client.publish.rows import LEAD_LEVEL, USUAL_FIELDS, Draft, FileRow, draft_of
from stream_app.client.publish.send import OnAcknowledged, Sender
from stream_app.clock import Clock
from stream_app.config import Settings
from stream_app.config.kafka_access import connection_of, kafka_ready
from stream_app.domain.lead.fields import clean_email
from stream_app.domain.lead.identity import identify, is_made_id, plain_id
from stream_app.domain.lead.read import (
    MAX_LEAD_BYTES,
    Unreadable,
    clay_row,
    label,
    new_import_id,
    read_lead,
)
from stream_app.domain.model.errors import StreamAppError
from stream_app.domain.model.messages import ImportSummary, Lead
from stream_app.domain.views.lane import LaneView
from stream_app.domain.views.price import Part, Quote, part, quote
from stream_app.kafka.connection import silent


class PublishOptions(msgspec.Struct, frozen=True):
    """The publisher's defaults for all rows.

    Attributes:
        workspace: For rows that name none; so `destination` and `import_id`.
        bulk: Publish to `leads.bulk`, which has a reserved share and delays no other lead, instead
            of `leads`.
        force: Send even if the same lead or person was sent before.
    """

    workspace: str | None = None
    destination: str | None = None
    import_id: str | None = None
    bulk: bool = False
    force: bool = False


class Ready(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A record to send to the workspace's home partition, with the workspace as key.

    Attributes:
        line: The row's line in the file, from 1.
        lead_id: The id that the lead will have; '' if the row has none and ids were not requested.
        given: The id in the row; '' if there is none.
    """

    workspace: str
    destination: str
    partition: int
    value: bytes
    line: int
    lead_id: str
    given: str

    @property
    def is_changed(self) -> bool:
        """True if the lead will have another id than its row says."""
        return bool(self.given) and self.given != self.lead_id


class Refusal(msgspec.Struct, frozen=True, omit_defaults=True):
    """A row that is not published.

    `text` repeats nothing of the row; `row` is the row itself, if it is text.
    """

    line: int
    reason: str
    text: str
    row: str = ""


class Checker:
    """Turns rows into records by the configuration and the publisher's defaults.

    `ids`: derive the ids of leads that have none. It takes time.
    """

    def __init__(self, settings: Settings, options: PublishOptions, *, ids: bool = False) -> None:
        only = next(iter(settings.workspaces)) if len(settings.workspaces) == 1 else None
        self._settings = settings
        self._defaults = {
            "workspace": options.workspace or only,
            "destination": options.destination,
            "import_id": options.import_id,
        }
        self.import_id = options.import_id
        """The import of leads that name none."""
        self._force = options.force
        self._ids = ids
        self._homes = settings.homes

    def check(self, row: FileRow) -> Ready | Refusal:
        """Return the row's record, or why it is refused."""
        answer = (
            row.draft if isinstance(row.draft, Unreadable) else self._ready(row.line, row.draft)
        )
        return (
            answer
            if isinstance(answer, Ready)
            else Refusal(row.line, answer.reason, answer.text, row.text)
        )

    def read(self, draft: Draft) -> tuple[Lead, bytes] | Unreadable:
        """Return the row's lead, with its workspace, and its bytes for Kafka; or why not."""
        for name, default in self._defaults.items():
            if default is not None and not draft.get(name):
                draft[name] = default
        if self._force:
            draft["force"] = True
        try:
            value = msgspec.json.encode(draft)
        except UnicodeEncodeError:
            return Unreadable("not_utf8", "The row is not UTF-8")
        except (OverflowError, RecursionError, TypeError, ValueError):
            return Unreadable("not_json", "The row holds a value that JSON cannot represent")
        lead = read_lead(value, None)
        return lead if isinstance(lead, Unreadable) else (lead, value)

    def _ready(self, line: int, draft: Draft) -> Ready | Unreadable:
        if not _is_no_email_or_one(draft.get("fields")):
            text = (
                "Its e-mail is not an e-mail address: correct it, or leave it empty to publish "
                "the rest of the row"
            )
            return Unreadable("bad_email", text)
        answer = self.read(draft)
        if isinstance(answer, Unreadable):
            return answer
        lead, value = answer
        workspace = lead.workspace
        assert workspace is not None  # read_lead names it
        home = self._homes.get(workspace)
        if home is None:
            return Unreadable("unknown_workspace", "The config has no such workspace")
        destination = self._settings.destination_of(workspace, lead.destination)
        if destination is None:
            text = (
                "The workspace has no such destination, or it has several and no "
                "default_destination"
            )
            return Unreadable("unknown_destination", text)
        row = clay_row(lead.fields, self._settings.destinations[destination].columns, {})
        if isinstance(row, Unreadable):
            return row
        given = lead.lead_id if lead.lead_id and lead.lead_id.strip() else ""
        lead_id = plain_id(given.strip()) if given else ""
        if (is_made_id(given.strip()) if given else self._ids) and (
            who := identify(lead, cleaned=True)
        ) is not None:
            lead_id = who.lead_id
        return Ready(workspace, destination, home, value, line, lead_id, given)


def _is_no_email_or_one(fields: object) -> bool:
    """True if the worker would accept the e-mail of these fields, or if there is none."""
    email = fields.get("email") if isinstance(fields, dict) else None
    if email is None or (isinstance(email, str) and not email.strip()):
        return True
    try:
        return isinstance(email, str) and bool(clean_email(email))
    except UnicodeEncodeError:
        return True  # another refusal reports it


_IN_MEMORY_BYTES: Final = 16 * 2**20
_LENGTH_BYTES: Final = 4

_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(Ready).decode


class CheckedLeads:
    """Checked leads in a temporary file.

    Every method raises StreamAppError if the temporary folder is full.
    """

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES)  # noqa: SIM115 (closed below)

    def close(self) -> None:
        self._file.close()

    def add(self, lead: Ready) -> None:
        raw = _encode(lead)
        with _room():
            self._file.write(len(raw).to_bytes(_LENGTH_BYTES) + raw)

    def __iter__(self) -> Iterator[Ready]:
        with _room():
            self._file.seek(0)
            while length := self._file.read(_LENGTH_BYTES):
                yield _decode(self._file.read(int.from_bytes(length)))


@contextmanager
def _room() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StreamAppError(no_room(error)) from error


def no_room(error: OSError) -> str:
    """Say that the temporary folder is full, and what to do."""
    return (
        f"the temporary folder has no room for the leads ({error.strerror}): "
        "set TMPDIR to a larger one"
    )


_SHOWN_NAMES: Final = 10
_ALPHABET: Final = "bcdfghjkmnpqrstvwxz"  # no words


def any_import_id() -> str:
    """Return a new name for an import."""
    return new_import_id(Clock().now_ms(), "".join(secrets.choice(_ALPHABET) for _ in range(6)))


def announced(leads: Iterable[Ready], summaries: Mapping[str, ImportSummary]) -> Iterator[Ready]:
    """Yield the leads, with summaries of their import.

    Each workspace's first lead that has room for the summary carries it.
    """
    left = dict(summaries)
    for lead in leads:
        if lead.workspace in left:
            value = msgspec.json.encode(
                msgspec.json.decode(lead.value) | {"import_summary": left[lead.workspace]},
            )
            if len(value) <= MAX_LEAD_BYTES:
                del left[lead.workspace]
                yield msgspec.structs.replace(lead, value=value)
                continue
        yield lead


_ROWS_A_TURN: Final = 500
_MAX_FIELDS: Final = 200
_SAMPLED_ROWS: Final = 200
_MAX_ADDRESS_CHARACTERS: Final = 320
_ADDRESS: Final = re.compile(r"[^@\s]{1,64}@[^@\s]{1,255}")
_DEFAULTS: Final = PublishOptions()


class PublishSummary(msgspec.Struct):
    """The counts of rows, so far or in the end: rows = ready + refused.

    Attributes:
        published: Leads that are safe on Kafka.
        changed: Leads whose id differs from the id in their row.
        reasons: Refused rows by reason.
        going: Leads by workspace and destination.
        fields: The names of the leads' fields, the first 200.
        addresses: How many rows have an e-mail address under a name, valid rows and refused ones.
        own_imports: Leads whose row names another import than the publisher.
        import_id: The publisher's name for them; None if there is none.
        lead_ids: The ids in the order of the leads, if they were asked for.
    """

    rows: int = 0
    ready: int = 0
    published: int = 0
    refused: int = 0
    changed: int = 0
    reasons: Counter[str] = msgspec.field(default_factory=Counter)
    going: Counter[tuple[str, str]] = msgspec.field(default_factory=Counter)
    fields: dict[str, None] = msgspec.field(default_factory=dict)
    addresses: Counter[str] = msgspec.field(default_factory=Counter)
    own_imports: int = 0
    import_id: str | None = None
    lead_ids: list[str] = msgspec.field(default_factory=list)

    def import_summaries(self, file: str = "", who: str = "") -> dict[str, ImportSummary]:
        """Return what the import's first lead of each workspace says.

        Empty if the rows name imports of their own.
        """
        workspaces = {} if self.own_imports else self.workspaces
        return {
            name: ImportSummary(self.rows, self.refused, leads, label(file), label(who))
            for name, leads in workspaces.items()
        }

    @property
    def workspaces(self) -> Counter[str]:
        """Leads by workspace."""
        counts: Counter[str] = Counter()
        for (workspace, _), leads in self.going.items():
            counts[workspace] += leads
        return counts


async def publish(
    leads: Iterable[Lead | Mapping[str, Any]],
    settings: Settings,
    options: PublishOptions = _DEFAULTS,
    *,
    on_refused: Callable[[Refusal], None] = silent,
) -> PublishSummary:
    """Publish leads, each a `Lead` or a flat mapping of its fields.

    A lead that is refused is reported and stops nothing; `Refusal.line` counts the leads from 1.
    Nothing is sent before all leads were checked.

    Raises:
        TopicsError, KafkaRefused, BrokerUnavailable, StreamAppError: Not all leads were published.
    """
    rows = (
        FileRow(line, msgspec.to_builtins(lead) if isinstance(lead, Lead) else draft_of(lead))
        for line, lead in enumerate(leads, 1)
    )
    return await publish_rows(rows, settings, options, on_refused=on_refused)


async def publish_rows(
    rows: Iterable[FileRow],
    settings: Settings,
    options: PublishOptions,
    *,
    on_refused: Callable[[Refusal], None] = silent,
) -> PublishSummary:
    """Check all rows, then publish the valid ones. Raises as `publish`."""
    await kafka_ready(settings, "publish() bulk" if options.bulk else "publish()")
    with closing(CheckedLeads()) as batch:
        lead_ids: list[str] = []

        def ready(lead: Ready) -> None:
            batch.add(lead)
            lead_ids.append(lead.lead_id)

        summary = await check_rows(
            rows,
            Checker(settings, options, ids=True),
            ready,
            on_refused=on_refused,
        )
        summary.import_id = options.import_id
        summary.lead_ids = lead_ids
        summaries = summary.import_summaries() if options.import_id else {}
        summary.published = await send_batch(batch, settings, options, summaries=summaries)
    return summary


async def check_rows(
    rows: Iterable[FileRow],
    checker: Checker,
    on_ready: Callable[[Ready], None],
    *,
    on_refused: Callable[[Refusal], None] = silent,
    on_progress: Callable[[PublishSummary], None] = silent,
) -> PublishSummary:
    """Check all rows. `on_progress` gets the same growing PublishSummary every few hundred rows."""
    summary = PublishSummary()
    for row in rows:
        if summary.rows < _SAMPLED_ROWS and not isinstance(row.draft, Unreadable):
            summary.addresses.update(_named_addresses(row.draft))
        answer = checker.check(row)
        summary.rows += 1
        if isinstance(answer, Refusal):
            summary.refused += 1
            summary.reasons[answer.reason] += 1
            on_refused(answer)
        else:
            summary.ready += 1
            summary.going[answer.workspace, answer.destination] += 1
            summary.changed += answer.is_changed
            assert isinstance(row.draft, dict)  # it became a record
            summary.own_imports += row.draft.get("import_id") != checker.import_id
            if room := _MAX_FIELDS - len(summary.fields):
                new = [name for name in row.draft["fields"] if name not in summary.fields]
                summary.fields.update(dict.fromkeys(new[:room]))
            on_ready(answer)
        if summary.rows % _ROWS_A_TURN == 0:
            on_progress(summary)
            await asyncio.sleep(0)
    return summary


async def send_batch(
    batch: Iterable[Ready],
    settings: Settings,
    options: PublishOptions,
    on_acknowledged: OnAcknowledged = silent,
    summaries: Mapping[str, ImportSummary] = {},
) -> int:
    """Send checked leads to their topic. Returns how many are safe on Kafka.

    `on_acknowledged` is called for each batch that Kafka has acknowledged. `summaries`: by
    workspace, what the first lead says of its import.

    Raises:
        BrokerUnavailable: Not all of them are.
    """
    connection = connection_of(settings)
    wait_s = settings.kafka.broker_wait_s
    async with Sender(connection, topic_of(settings, options), wait_s, on_acknowledged) as sender:
        for lead in announced(batch, summaries):
            await sender.put(lead.partition, lead.workspace.encode(), lead.value)
        await sender.flush()
        return sender.acknowledged


def topic_of(settings: Settings, options: PublishOptions) -> str:
    """The topic that leads with these options are published to."""
    return settings.names.bulk if options.bulk else settings.names.leads


def quotes_of(
    settings: Settings,
    summary: PublishSummary,
    views: Mapping[str, LaneView] | None,
    now_ms: int,
) -> list[Quote]:
    """Quote the leads of each workspace.

    Args:
        settings: The configuration.
        summary: The leads.
        views: The last view of each lane that has one, by workspace; None if the lanes were not
            asked.
        now_ms: The time, epoch ms.
    """
    known = views or {}
    parts: dict[str, list[Part]] = {}
    for (workspace, alias), leads in sorted(summary.going.items()):
        destination = settings.destinations[alias]
        learned = known[workspace].estimates if workspace in known else {}
        price = part(alias, leads, destination.estimate, destination.ceiling, learned)
        parts.setdefault(workspace, []).append(price)
    return [
        quote(settings.workspaces[name], known.get(name), mine, now_ms, asked=views is not None)
        for name, mine in parts.items()
    ]


def _named_addresses(draft: Draft) -> list[str]:
    """Return the names under which a row has something like an e-mail address."""
    fields = draft.get("fields")
    if not isinstance(fields, dict) or len(fields) > _MAX_FIELDS:
        return []
    return [
        name
        for name, value in fields.items()
        if isinstance(value, str)
        and len(value) <= _MAX_ADDRESS_CHARACTERS
        and _ADDRESS.fullmatch(value.strip())
    ]


def no_workspace(settings: Settings, names: Sequence[str], workspace: str | None) -> str:
    """Return what to add if no row of a CSV with these columns can name its workspace.

    '' if nothing is missing.
    """
    if workspace or "workspace" in names or len(settings.workspaces) < 2:
        return ""
    known = sorted(settings.workspaces)
    shown = ", ".join(known[:_SHOWN_NAMES]) + (
        f" and {len(known) - _SHOWN_NAMES} more" if known[_SHOWN_NAMES:] else ""
    )
    return f"no row names its workspace: pass --workspace, one of {shown}"


def column_lines(
    settings: Settings,
    titles: Sequence[str],
    names: Sequence[str],
    summary: PublishSummary,
    correct: str,
) -> Iterator[str]:
    """Yield lines about the columns of a file.

    They say how the columns were named, which fields have no usual name, and which are not sent to
    Clay.

    Args:
        settings: The settings.
        titles: The titles of the columns.
        names: The names that the columns were given.
        summary: What was counted in the rows.
        correct: How to name a column otherwise, such as `use --map`.
    """
    renamed = [
        f"{title} -> {name}"
        for title, name in zip(titles, names, strict=True)
        if name not in ("", title)
    ]
    if renamed:
        yield f"columns: {', '.join(renamed)}"
    if left_out := [number for number, name in enumerate(names, 1) if not name]:
        yield (
            f"left out, since the header has no title there: column {', '.join(map(str, left_out))}"
        )
    known = set(USUAL_FIELDS.values())
    if "email" not in names and "email" not in summary.fields:
        sampled = min(summary.rows, _SAMPLED_ROWS)
        for name in [name for name, rows in summary.addresses.most_common(1) if 2 * rows > sampled]:
            how = f"add --map email={shlex.quote(name)}" if "--map" in correct else correct
            yield f"the column {name} holds e-mail addresses: {how}"
    for name in [field for field in summary.fields if field not in known | LEAD_LEVEL]:
        near = difflib.get_close_matches(name.lower(), USUAL_FIELDS, cutoff=0.8)
        hint = (
            f"; is it {USUAL_FIELDS[near[0]]}? Then name it so{f', or {correct}' if names else ''}"
            if near
            else ""
        )
        yield f"{name}: no usual name, so it stays a field of its own{hint}"
    for alias in sorted({alias for _, alias in summary.going}):
        columns = settings.destinations[alias].columns
        unsent = [name for name in summary.fields if name not in columns] if columns else []
        if unsent:
            yield (
                f"not sent to Clay, since destinations.{alias}.columns does not name it: "
                f"{', '.join(unsent)}"
            )
