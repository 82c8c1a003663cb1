"""Reads the evidence from Kafka at the end: records, events, rows and offsets of both groups."""

from collections import Counter
from typing import Any

import msgspec

from stream_app.domain.lane.lane import Lane
from stream_app.domain.model.messages import Lead, StatusEvent
from stream_app.kafka.readers import consumed
from tests.chaos.checker import Evidence
from tests.e2e.fleet import Fleet
from tests.e2e.load import HOSTILE, POISON
from tests.support.kafka import committed

CREDITS_A_LEAD = 6
"""A destination's default estimate: what an accepted lead costs here."""
CEILING = 20
"""A destination's default ceiling: what a budget must have room for."""

_lead = msgspec.json.Decoder(Lead)
_event = msgspec.json.Decoder(StatusEvent)
_lane = msgspec.json.Decoder(Lane)


async def read_evidence(
    line: Fleet,
    published: dict[str, int],
    caps: dict[str, int],
    *,
    resend: bool,
) -> Evidence:
    """published: records by kind. caps: credits a day, by workspace, of those whose budget is meant
    to be used up.
    """
    names = line.settings.names
    passed = await committed(line.bootstrap, names.worker_app) | await committed(
        line.bootstrap,
        names.replay_app,
    )
    tiers = [names.wait(tier) for tier in line.settings.replay.tiers_s]
    records = {topic: await line.read(topic) for topic in (names.leads, names.bulk, names.retry)}
    returns = {topic: await line.read(topic) for topic in (names.dlq, names.deferred, *tiers)}
    inputs: dict[str, str] = {}
    people: dict[str, set[str]] = {}
    coming: set[str] = set()
    without_value: dict[str, int] = {}
    for topic, taken in (records | returns).items():
        for record in taken:
            origin = None if topic in names.inputs else _header(record, "stream-app-origin")
            if topic in names.inputs and record.value is None:
                without_value[_place(record)] = consumed(record).records
            elif origin is None:
                inputs[_place(record)] = _workspace(record)
                if who := people_of(record.value):
                    people[_place(record)] = who
            if record.offset >= passed.get((topic, record.partition), 0):
                coming.add(origin or _place(record))
    return Evidence(
        inputs=inputs,
        people=people,
        published=published,
        max_replays=line.settings.replay.max_replays,
        events=[_event.decode(record.value) for record in await line.read(names.status)],
        requests=line.requests(),
        coming=coming,
        poison=Counter(_header(record, "stream-app-origin") or "" for record in returns[names.dlq]),
        parked=Counter(
            _header(record, "stream-app-origin") or "" for record in await line.read(names.parked)
        ),
        lanes=await read_lanes(line),
        caps=caps,
        credits_a_lead=CREDITS_A_LEAD,
        ceiling=CEILING,
        may_wait=may_wait(line, inputs | dict.fromkeys(without_value, ""), caps),
        resend=resend,
        without_value=without_value,
        routines=frozenset(line.routines),
    )


def may_wait(line: Fleet, inputs: dict[str, str], caps: dict[str, int]) -> dict[str, str]:
    """Inputs whose lane may have no budget left, and those behind such ones in a partition of their
    own, each with the workspace whose budget it is.
    """
    homes = Counter(line.settings.home(name) for name in line.names)
    shut = {line.settings.home(name): name for name in caps if homes[line.settings.home(name)] == 1}
    waiting = {place: workspace for place, workspace in inputs.items() if workspace in caps}
    for place in inputs.keys() - waiting.keys():
        if (workspace := shut.get(int(place.split("/")[-2]))) is not None:
            waiting[place] = workspace
    return waiting


async def read_lanes(line: Fleet) -> list[Lane]:
    """Return every committed row of every lane, in order."""
    states = await line.read(line.settings.names.state)
    return [
        _lane.decode(record.value)
        for record in states
        if record.key.startswith(b"l/") and record.value
    ]


def _place(record: Any) -> str:
    return f"{record.topic}/{record.partition}/{record.offset}"


def _header(record: Any, name: str) -> str | None:
    return next((value.decode() for key, value in record.headers if key == name), None)


def _workspace(record: Any) -> str:
    try:
        return _lead.decode(record.value).workspace or ""
    except msgspec.DecodeError:
        return ""


def people_of(value: bytes) -> set[str]:
    """Return the id and the strong identifiers of a record's lead, each with the workspace.

    Empty if it is no lead.
    """
    try:
        lead = _lead.decode(value)
    except msgspec.DecodeError:
        return set()
    strong = lead.lead_id, lead.fields.get("email"), lead.fields.get("linkedin_url")
    trick = (lead.source or "").partition(f"{HOSTILE}: ")[2]
    if trick in POISON:
        return set()
    # What it says of others counts for nothing: it may name their id, and a second person. Two that
    # forge the same id have the same lead, which is none of the one to whom the id belongs.
    if trick:
        forged = f"forged {lead.lead_id}" if lead.lead_id else None
        strong = forged, lead.fields.get("email"), None
    return {f"{lead.workspace} {name}" for name in strong if name}
