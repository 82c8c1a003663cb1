"""The rows that a partition keeps of leads, as its worker writes them, and a topic that is filled
with them.
"""

import time

import msgspec
from aiokafka import AIOKafkaProducer
from msgspec.structs import replace

from stream_app.domain.delivery.envelope import Envelope
from stream_app.domain.delivery.state_machine import begin, delivery_key
from stream_app.domain.lead.identity import company, identifiers, identify, linked, person_key
from stream_app.domain.limits.budget import Reservation
from stream_app.domain.model.messages import Lead, Scalar
from stream_app.domain.model.records import trace_of
from stream_app.domain.model.system import SYSTEM_KEY, system_row

_FIRMS = 5_000


def lead_of(number: int, *, linkedin: bool) -> Lead:
    """Return a lead with a UUID as its id and an e-mail address, and (`linkedin`) with a LinkedIn
    URL, too.
    """
    fields: dict[str, Scalar] = {
        "domain": f"firm{number % _FIRMS}.example",
        "email": f"person{number}@firm{number % _FIRMS}.example",
        "first_name": "Ada",
        "last_name": f"Example {number}",
    }
    if linkedin:
        fields["linkedin_url"] = f"https://www.linkedin.com/in/person{number}"
    return Lead(fields, lead_id=f"{number:08x}-7c1e-4b7a-9d2e-3f9a1c5e7b24")


def rows_of_lead(
    number: int,
    workspace: str,
    destination: str,
    now_ms: int,
    *,
    linkedin: bool = False,
    awaiting: bool = False,
) -> list[tuple[bytes, bytes]]:
    """Return all rows of a lead whose result has come, or (`awaiting`) that waits for its callback.

    They are its own row, and one for each identifier of its person, which leads to it.
    """
    lead = lead_of(number, linkedin=linkedin)
    who = identify(lead)
    assert who is not None, "it has an e-mail address"
    origin = f"leads/0/{number}"
    key = delivery_key(workspace, destination, who.lead_id)
    envelope = Envelope(origin, trace_id=trace_of(origin))
    row = replace(
        begin(envelope, now_ms, who.person or "", company(lead.fields), who.people),
        state="accepted" if awaiting else "enriched",
        seq=3 if awaiting else 4,
        webhook_id="a1b2c3d4e5f6",
        final=not awaiting,
        reservation=Reservation("2026-11-24", "2026-11", 20, 5) if awaiting else None,
        results=0 if awaiting else 1,
        accepted_at_ms=now_ms,
    )
    aliases = tuple(person_key(workspace, destination, name) for name in identifiers(who.people))
    return [(key, msgspec.json.encode(row)), *linked(aliases, key, lambda _: None)]


async def fill(
    bootstrap: str,
    topic: str,
    leads: int,
    workspace: str,
    destination: str,
    *,
    linkedin: bool = False,
    awaiting: bool = False,
) -> int:
    """Write the rows of so many leads to partition 0 of a state topic of one partition.

    Returns how many rows.
    """
    # As large as the batches of a worker at most: larger ones are read record by record.
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, linger_ms=50, max_batch_size=2**18)
    await producer.start()
    rows = 0
    try:
        await producer.send(topic, system_row(1), SYSTEM_KEY, partition=0)
        now_ms = time.time_ns() // 1_000_000
        for number in range(leads):
            written = rows_of_lead(
                number,
                workspace,
                destination,
                now_ms + number,
                linkedin=linkedin,
                awaiting=awaiting,
            )
            for key, value in written:
                await producer.send(topic, value, key, partition=0)
            rows += len(written)
    finally:
        await producer.stop()
    return rows
