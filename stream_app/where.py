"""Where a lead is, asked of the gateway: what `stream-app status` prints, for Python users.

An e-mail or LinkedIn URL is hashed here, before it goes anywhere; only the hash is in the request.
"""

from __future__ import annotations

from urllib.parse import quote, urlsplit

import httpx
import msgspec

from stream_app.core.errors import GatewayUnavailable, SettingsError, StreamAppError
from stream_app.core.hosts import is_loopback
from stream_app.core.lead import clean_email, clean_linkedin, identify
from stream_app.core.messages import Lead
from stream_app.gateway.lookup_answers import Answer, FoundLead, LeadAnswer, LeadsAnswer, Refusal
from stream_app.settings import Settings

_WITHIN_S = 15.0


class Found(Answer, frozen=True, kw_only=True):
    """The leads that were meant; none: nothing is known of them."""

    leads: list[FoundLead]


def find(settings: Settings, who: str, workspace: str | None = None) -> Found:
    """Ask for a lead's id, an e-mail or a LinkedIn URL. `workspace`: what other workspaces know of it is left out.

    Raises SettingsError (what was asked for is none of these), GatewayUnavailable, StreamAppError (it refused).
    """
    url, token = settings.api_url, settings.api_token
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    direct = is_loopback(urlsplit(url).hostname or "")  # a proxy of the environment does not lead to this machine
    with httpx.Client(base_url=url, headers=headers, timeout=_WITHIN_S, trust_env=not direct) as client:
        for path in paths_of(who):
            found = _ask(client, path, url)
            leads = [mine for lead in found.leads if (mine := _of_workspace(lead, workspace)) is not None]
            if leads:
                break
    return msgspec.structs.replace(found, leads=leads)


def paths_of(who: str) -> list[str]:
    """What to ask the API for, in this order; no personal data is in it. Raises SettingsError."""
    text = who.strip()
    if text.startswith("record:"):
        return [f"/leads/{quote(text, safe='/:')}"]  # a record that was no lead is named by its place
    fields = {"email": clean_email(text)} if "@" in text else {"linkedin_url": clean_linkedin(text)}
    known = identify(Lead({name: value for name, value in fields.items() if value}))
    paths = [f"/leads?person={known.person}"] if known is not None else []
    if by_id := identify(Lead({"any": "thing"}, lead_id=text)):
        paths.append(f"/leads/{quote(by_id.lead_id, safe=':')}")
    if not paths:
        raise SettingsError(["nobody is asked for: give a lead's id, an e-mail or a LinkedIn URL"])
    return paths


def _ask(client: httpx.Client, path: str, url: str) -> Found:
    try:
        answer = client.get(path)
        if answer.status_code == 404 or answer.is_success:
            return _read(path, answer)
        refusal = msgspec.json.decode(answer.content, type=Refusal)
    except httpx.HTTPError as error:
        raise GatewayUnavailable(
            f"the gateway at {url} does not answer ({type(error).__name__}): start it with: stream-app gateway; "
            "if it runs elsewhere, set gateway.api_url"
        ) from error
    except msgspec.DecodeError as error:
        raise GatewayUnavailable(
            f"what answers at {url} is no stream-app gateway of this version (HTTP {answer.status_code}): "
            "check gateway.api_url"
        ) from error
    raise StreamAppError(f"the gateway at {url} refused: {refusal.text}")


def _read(path: str, answer: httpx.Response) -> Found:
    kind: type[Answer] = Refusal
    if answer.is_success:
        kind = LeadsAnswer if path.startswith("/leads?") else LeadAnswer
    read = msgspec.json.decode(answer.content, type=kind)
    leads = read.leads if isinstance(read, LeadsAnswer) else [read.lead] if isinstance(read, LeadAnswer) else []
    return Found(as_of_ms=read.as_of_ms, lag=read.lag, trouble=read.trouble, leads=leads)


def _of_workspace(lead: FoundLead, workspace: str | None) -> FoundLead | None:
    """The lead as far as that workspace is concerned, or as far as no event says which one is."""
    if workspace is None:
        return lead
    stories = [each for each in lead.stories if each.workspace in (workspace, "")]
    results = [each for each in lead.results if each.workspace == workspace]
    if not stories and not results:
        return None
    return msgspec.structs.replace(lead, stories=stories, story_count=len(stories), results=results)
