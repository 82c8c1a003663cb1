"""Asks the board where a lead or an import is.

`stream-app status` and `imports` use it, and so can Python programs. An e-mail or LinkedIn URL is
hashed here. Only the hash is in the request.
"""

import asyncio
import os
import time
from typing import Final, TypeVar
from urllib.parse import quote, urlencode

import httpx
import msgspec

from stream_app.client.results.answers import (
    NOT_READ_YET,
    UNKNOWN_LEAD,
    Answer,
    BillAnswer,
    DeadLettersAnswer,
    FoundImport,
    FoundLead,
    ImportsAnswer,
    LeadAnswer,
    LeadsAnswer,
    Refusal,
    WaitingAnswer,
    YieldAnswer,
)
from stream_app.config import Settings
from stream_app.config.board_files import token_of_reader
from stream_app.domain.lead.fields import clean_email, clean_linkedin
from stream_app.domain.lead.identity import identify, ids_meant
from stream_app.domain.lead.read import MAX_IMPORT_ID_CHARACTERS, is_shown
from stream_app.domain.model.addresses import is_loopback_url
from stream_app.domain.model.errors import (
    BoardUnavailable,
    ImportUnderWay,
    NotTheBoard,
    SettingsError,
    StreamAppError,
)
from stream_app.domain.model.messages import Lead, Scalar
from stream_app.domain.model.text import count
from stream_app.domain.model.untrusted import UNREADABLE

NAME: Final = "stream-app board"
"""What /healthz of the board answers."""
_WITHIN_S: Final = 30.0
_ANSWERS_WITHIN_S: Final = 5.0
_LOOK_EVERY_S: Final = 1.0
_RECORD: Final = "record:"  # a rejected record has its position as its name

A = TypeVar("A", bound=Answer)


class _Ticket(msgspec.Struct, frozen=True):
    """What the board answers to a request for a ticket: the path to open, or why there is none."""

    path: str = ""
    text: str = ""


_ticket: Final = msgspec.json.Decoder(_Ticket)


class LeadSearch(Answer, frozen=True, kw_only=True):
    """The leads that match; no worker has processed one of them if `leads` is empty.

    Attributes:
        waiting: The search among the waiting records; None if it was not needed.
    """

    leads: list[FoundLead]
    waiting: WaitingAnswer | None = None


def find(settings: Settings, who: str, workspace: str | None = None) -> LeadSearch:
    """Find leads by a lead id, an e-mail or a LinkedIn URL, in one workspace or (None) in all.

    Raises:
        SettingsError: `who` is none of these.
        BoardUnavailable: The board does not respond, or another server does.
        StreamAppError: The board rejected the request.
    """
    with _client(settings) as client:
        for path in paths_of(who):
            kind: type[LeadAnswer | LeadsAnswer] = (
                LeadsAnswer if path.startswith("/leads?") else LeadAnswer
            )
            answer = _answer(client, path, kind, Refusal)
            match answer:
                case LeadAnswer():
                    leads = [answer.lead]
                case LeadsAnswer():
                    leads = answer.leads
                case Refusal():
                    leads = []
            mine = list(filter(None, (_of_workspace(lead, workspace) for lead in leads)))
            search = LeadSearch(
                as_of_ms=answer.as_of_ms,
                lag=answer.lag,
                trouble=answer.trouble,
                leads=mine,
            )
            if mine:
                return search
        return msgspec.structs.replace(search, waiting=_waiting(client, who, workspace))


def find_imports(
    settings: Settings,
    import_id: str = "",
    workspace: str | None = None,
) -> ImportsAnswer:
    """Return the newest imports, or those with one id, of one workspace or (None) of all.

    Raises:
        SettingsError: The id may be an e-mail address.
        BoardUnavailable: The board does not respond, or another server does.
        StreamAppError: The board rejected the request.
    """
    if import_id and not is_shown(import_id):
        text = (
            f"import {import_id}: an id with an @ or more than {MAX_IMPORT_ID_CHARACTERS} "
            "characters is not followed"
        )
        raise SettingsError([f"{text}; use `stream-app status LEAD`"])
    query = {"import_id": import_id, "workspace": workspace}
    path = f"/imports?{urlencode({name: value for name, value in query.items() if value})}"
    with _client(settings) as client:
        return _answer(client, path, ImportsAnswer)


async def wait_for_import(
    settings: Settings,
    import_id: str,
    workspace: str | None,
    timeout_s: float,
) -> list[FoundImport]:
    """Return an import, by workspace, when all of its leads are at rest.

    Raises:
        ImportUnderWay: They are not in time.
        BoardUnavailable: The board does not respond at the end of that time.
        SettingsError: The id may be an e-mail address.
        StreamAppError: The board rejected the request.
    """
    ends_s = time.monotonic() + timeout_s
    while True:
        is_last = time.monotonic() + _LOOK_EVERY_S > ends_s
        try:
            imports = (
                await asyncio.to_thread(find_imports, settings, import_id, workspace)
            ).imports
        except BoardUnavailable as error:
            if is_last or isinstance(error, NotTheBoard):
                raise
        else:
            rows = max(
                (entry.rows - (entry.refused or 0) for entry in imports if entry.rows is not None),
                default=0,
            )
            # Of a workspace of which no worker has taken a lead yet, only the count of rows knows.
            unseen = (
                0 if workspace else max(0, rows - sum(entry.published or 0 for entry in imports))
            )
            known = unseen + sum(entry.leads for entry in imports)
            moving = unseen + sum(entry.moving for entry in imports)
            if not moving and any(entry.records for entry in imports):
                return imports
            if is_last:
                under_way = (
                    f"{moving:,} of {count(known, 'lead is', 'leads are')} under way"
                    if known
                    else "none of its leads is known"
                )
                raise ImportUnderWay(
                    f"import {import_id}: {under_way} after {timeout_s:g} s: wait longer; "
                    f"`stream-app imports {import_id}` shows where they are, and `stream-app "
                    "explain` what holds them",
                )
        await asyncio.sleep(_LOOK_EVERY_S)


def find_yields(settings: Settings, workspace: str | None = None) -> YieldAnswer:
    """Return what Clay finds, by column, of one workspace or (None) of all.

    Raises as `find_imports`.
    """
    query = f"?{urlencode({'workspace': workspace})}" if workspace else ""
    with _client(settings) as client:
        return _answer(client, f"/yield{query}", YieldAnswer)


def find_bills(settings: Settings) -> BillAnswer:
    """Return whether Clay's bill agrees, by workspace. Raises as `find_imports`."""
    with _client(settings) as client:
        return _answer(client, "/bill", BillAnswer)


def find_dead_letters(settings: Settings) -> DeadLettersAnswer:
    """Return the dead letters by what has become of them. Raises as `find_imports`."""
    with _client(settings) as client:
        return _answer(client, "/dlq", DeadLettersAnswer)


def check_board(url: str, within_s: float = _ANSWERS_WITHIN_S) -> None:
    """Return if the board answers at the URL.

    Raises:
        NotTheBoard: Another server answers.
        BoardUnavailable: Nothing answers.
    """
    try:
        answer = httpx.get(f"{url}/healthz", timeout=within_s, trust_env=not is_loopback_url(url))
    except httpx.HTTPError as error:
        raise board_away(url, error) from error
    if not answer.is_success or answer.text.strip() != NAME:
        raise not_the_board(url, answer.status_code)


def way_in(settings: Settings) -> str:
    """Return the address with which this user's browser comes into the board.

    A board without `board.token_env` gives a ticket to a caller with its token. The ticket is valid
    once, and for a minute.

    Raises:
        BoardUnavailable: Nothing answers.
        StreamAppError: The board refuses this user, or another server answers.
    """
    url = f"{settings.board_url}/board"
    if settings.board.token_env is not None:
        return url
    with _client(settings) as client:
        try:
            answer = client.post("/board/ticket")
        except httpx.HTTPError as error:
            raise board_away(settings.board_url, error) from error
    try:
        ticket = _ticket.decode(answer.content)
    except UNREADABLE as error:
        raise not_the_board(url, answer.status_code) from error
    if not answer.is_success or not ticket.path:
        raise StreamAppError(
            f"the board at {settings.board_url} rejected the request: {ticket.text}",
        )
    return f"{settings.board_url}{ticket.path}"


def board_away(url: str, error: httpx.HTTPError) -> BoardUnavailable:
    """Return the error to raise when the board does not respond."""
    return BoardUnavailable(
        f"the board at {url} does not respond ({type(error).__name__}): start it with: "
        "stream-app board; if it runs elsewhere, set board.url",
    )


def not_the_board(url: str, status: int) -> NotTheBoard:
    """Return the error to raise when another server responds."""
    return NotTheBoard(
        f"this is not the board: what answers at {url} is not `stream-app board` of this version "
        f"(HTTP {status}); check board.url, and the proxy before it",
    )


def _client(settings: Settings) -> httpx.Client:
    url = settings.board_url
    token = token_of_reader(settings, os.environ)
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    direct = is_loopback_url(url)  # a proxy of the environment cannot reach this machine
    return httpx.Client(base_url=url, headers=headers, timeout=_WITHIN_S, trust_env=not direct)


def paths_of(who: str) -> list[str]:
    """Return the API paths to try, in order, without personal data. Raises SettingsError."""
    person, lead_ids = names_of(who)
    paths = [] if person is None else [f"/leads?person={person}"]
    paths += [
        f"/leads/{quote(lead_id, safe='/:' if lead_id.startswith(_RECORD) else ':')}"
        for lead_id in lead_ids
    ]
    if not paths:
        raise SettingsError(["no lead given: pass a lead id, an e-mail or a LinkedIn URL"])
    return paths


def names_of(who: str) -> tuple[str | None, tuple[str, ...]]:
    """Return what a lead id, an e-mail or a LinkedIn URL may mean.

    Returns:
        The hash of a person, if it may mean one, and the lead ids.
    """
    text = who.strip()
    if text.startswith(_RECORD):
        return None, (text,)
    fields: dict[str, Scalar] = (
        {"email": clean_email(text)} if "@" in text else {"linkedin_url": clean_linkedin(text)}
    )
    known = identify(Lead(fields))
    return (None if known is None else known.person), ids_meant(text) if text else ()


def _waiting(client: httpx.Client, who: str, workspace: str | None) -> WaitingAnswer | None:
    """Search among the records that no worker has processed. An e-mail or URL means a person."""
    if who.strip().startswith(_RECORD):
        return None
    person, lead_ids = names_of(who)
    query = {"lead_id": lead_ids[0]} if person is None else {"person": person}
    if workspace is not None:
        query["workspace"] = workspace
    return _answer(client, f"/waiting?{urlencode(query)}", WaitingAnswer)


def _answer(client: httpx.Client, path: str, *kinds: type[A]) -> A:
    """Return the board's answer as the first of these types, or as the last for an unknown lead.

    Raises:
        BoardUnavailable: There is no answer, or not one of a board of this version, or the board
            still reads Kafka.
        StreamAppError: The board rejected the request.
    """
    url = str(client.base_url).rstrip("/")
    try:
        answer = client.get(path)
        if answer.is_success:
            return msgspec.json.decode(answer.content, type=kinds[0])
        refusal = msgspec.json.decode(answer.content, type=Refusal)
    except httpx.HTTPError as error:
        raise board_away(url, error) from error
    except UNREADABLE as error:
        raise not_the_board(url, answer.status_code) from error
    if refusal.error == NOT_READ_YET:
        raise BoardUnavailable(f"not read yet: {refusal.text} ({url})")
    if answer.status_code != 404:
        raise StreamAppError(f"the board at {url} rejected the request: {refusal.text}")
    if refusal.error != UNKNOWN_LEAD or not isinstance(refusal, kinds):
        raise not_the_board(url, answer.status_code)
    return refusal


def _of_workspace(lead: FoundLead, workspace: str | None) -> FoundLead | None:
    """Reduce a lead to one workspace. Records whose events name no workspace stay."""
    if workspace is None:
        return lead
    histories = [history for history in lead.histories if history.workspace in (workspace, "")]
    results = [result for result in lead.results if result.workspace == workspace]
    if not histories and not results:
        return None
    return msgspec.structs.replace(
        lead,
        histories=histories,
        history_count=len(histories),
        results=results,
    )
