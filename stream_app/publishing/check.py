"""Turns a row into a record for Kafka, or refuses it with a reason. It reads a row exactly as the worker does."""

from __future__ import annotations

import msgspec

from stream_app.config import Settings
from stream_app.domain.lead.fields import clean_email
from stream_app.domain.lead.identity import identify_cleaned, is_made_id, plain_id
from stream_app.domain.lead.lead import Unreadable, read_lead
from stream_app.domain.messages import Lead
from stream_app.publishing.rows import Draft, Row


class PublishOptions(msgspec.Struct, frozen=True):
    """The publisher's defaults for all rows.

    Attributes:
        workspace: For rows that name none; so `destination` and `import_id`.
        bulk: Publish to `leads.bulk`, which has a reserved share and delays no other lead, instead of `leads`.
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
    """A row that is not published. `text` repeats nothing of the row; `row` is the row itself, if it is text."""

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
        self._force = options.force
        self._ids = ids
        self._homes = settings.homes

    @property
    def import_id(self) -> str | None:
        """The import of leads that name none."""
        return self._defaults["import_id"]

    def check(self, row: Row) -> Ready | Refusal:
        """Return the row's record, or why it is refused."""
        answer = row.draft if isinstance(row.draft, Unreadable) else self._ready(row.line, row.draft)
        return answer if isinstance(answer, Ready) else Refusal(row.line, answer.reason, answer.text, row.text)

    def read(self, draft: Draft) -> tuple[Lead, bytes] | Unreadable:
        """Return the row's lead, with its workspace, and its bytes for Kafka; or why it is refused."""
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
            text = "Its e-mail is not an e-mail address: correct it, or leave it empty to publish the rest of the row"
            return Unreadable("bad_email", text)
        answer = self.read(draft)
        if isinstance(answer, Unreadable):
            return answer
        lead, value = answer
        workspace = lead.workspace or ""
        home = self._homes.get(workspace)
        if home is None:
            return Unreadable("unknown_workspace", "The config has no such workspace")
        destination = self._settings.destination_of(workspace, lead.destination)
        if destination is None:
            text = "The workspace has no such destination, or it has several and no default_destination"
            return Unreadable("unknown_destination", text)
        given = lead.lead_id if lead.lead_id and lead.lead_id.strip() else ""
        lead_id = plain_id(given.strip()) if given else ""
        if (is_made_id(given.strip()) if given else self._ids) and (who := identify_cleaned(lead)) is not None:
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
