"""A row becomes a record for Kafka, or is refused with a reason: the same reading as the worker's, done before."""

from __future__ import annotations

import msgspec

from stream_app.config import Settings
from stream_app.domain.lead.lead import Unreadable, clean_email, identify, plain_id, read_lead
from stream_app.domain.messages import Lead
from stream_app.publishing.rows import Draft, Row


class Wishes(msgspec.Struct, frozen=True):
    """What the publisher wants for all rows. Workspace, destination and import_id count where a row says none.

    bulk   into `leads.bulk`, which has a share and delays nobody, instead of `leads`.
    force  send although the same lead or person was sent before.
    """

    workspace: str | None = None
    destination: str | None = None
    import_id: str | None = None
    bulk: bool = False
    force: bool = False


class Ready(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A record to send: into the workspace's home partition, keyed by the workspace.

    line     of the row in the file, from 1.
    lead_id  the id that the lead will have everywhere; '' where the row has none and ids were not asked for.
    given    the id in the row, as it stands there; '' where there is none.
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
        """Whether the lead will have another id than the row says."""
        return bool(self.given) and self.given != self.lead_id


class Refusal(msgspec.Struct, frozen=True, omit_defaults=True):
    """A row that is not published. `text` repeats nothing of the row; `row` is the row itself, where it has a text."""

    line: int
    reason: str
    text: str
    row: str = ""


class Checker:
    """Turns rows into records by the configuration and the publisher's wishes.

    ids  whether the ids of leads that have none are needed: these are made from the person, which takes time.
    """

    def __init__(self, settings: Settings, wishes: Wishes, *, ids: bool = False) -> None:
        only = next(iter(settings.workspaces)) if len(settings.workspaces) == 1 else None
        self._settings = settings
        self._defaults = {
            "workspace": wishes.workspace or only,
            "destination": wishes.destination,
            "import_id": wishes.import_id,
        }
        self._force = wishes.force
        self._ids = ids
        self._homes = {name: settings.home(name) for name in settings.workspaces}

    def check(self, row: Row) -> Ready | Refusal:
        """The row's record, or why there is none."""
        answer = row.draft if isinstance(row.draft, Unreadable) else self._ready(row.line, row.draft)
        return answer if isinstance(answer, Ready) else Refusal(row.line, answer.reason, answer.text, row.text)

    def read(self, draft: Draft) -> tuple[Lead, bytes] | Unreadable:
        """The lead that a row is, with its workspace, and its bytes as they go to Kafka; or why it is none."""
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
            return Unreadable("not_json", "The row holds a value that JSON cannot")
        lead = read_lead(value, None)
        return lead if isinstance(lead, Unreadable) else (lead, value)

    def _ready(self, line: int, draft: Draft) -> Ready | Unreadable:
        if not _is_no_email_or_one(draft.get("fields")):
            text = "Its e-mail is no e-mail address: correct it, or leave it empty to publish the rest of the row"
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
            text = "The workspace has no such destination, or several and no default_destination"
            return Unreadable("unknown_destination", text)
        given = lead.lead_id if lead.lead_id and lead.lead_id.strip() else ""
        lead_id = plain_id(given.strip()) if given else ""
        if self._ids and not given and (who := identify(lead)) is not None:
            lead_id = who.lead_id
        return Ready(workspace, destination, home, value, line, lead_id, given)


def _is_no_email_or_one(fields: object) -> bool:
    """Whether the worker would take the e-mail of these fields as it stands, if there is one."""
    email = fields.get("email") if isinstance(fields, dict) else None
    if email is None or (isinstance(email, str) and not email.strip()):
        return True
    try:
        return isinstance(email, str) and bool(clean_email(email))
    except UnicodeEncodeError:
        return True  # another refusal names it
