"""Mutated callbacks, by seed, through the gateway: none crashes it, none counts without its token,
each is counted.

    python -m tests.gateway.fuzz --requests 100000 --seed 1

sends them as bytes through nginx and uvicorn. `fuzz` sends them to the app alone, whose counters
must add up.

The check does not ask the gateway's code what is right: a callback that was kept must have come
with the very text of a token that some key in use gives for that lead at that table, or with that
table's secret.
"""

import argparse
import asyncio
import random
import re
import sys
import time
from collections import Counter
from dataclasses import dataclass, field

from rich.console import Console
from starlette.types import Message

from stream_app.config.model import Gateway as Limits
from stream_app.dev.process import free_port
from stream_app.domain.model.errors import BrokerUnavailable
from stream_app.domain.model.messages import Callback
from stream_app.domain.model.tokens import sign
from stream_app.ops import logs as log
from stream_app.ops.http import serve_http
from tests.gateway.mutations import HIDDEN, IN_USE, MUTATIONS, SECRETS, Sent
from tests.gateway.support import TABLES, Gateway, scope_of
from tests.support.nginx import Nginx
from tests.support.pace import BUSY

LIMITS = Limits(max_body_bytes=16_384, read_timeout_s=0.05, hold_s=0.02)
THROUGH_NGINX = Limits(max_body_bytes=16_384, read_timeout_s=5, hold_s=0.2)
AT_ONCE = 100
Answer = tuple[int | None, bytes]
"""Status and text; None: the gateway did not answer."""


@dataclass
class Findings:
    """What happened. `faults` must stay empty."""

    requests: int = 0
    callbacks: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    unanswered: int = 0
    faults: list[str] = field(default_factory=list)


def make(rng: random.Random) -> Sent:
    """Return a good callback after none to three mutations."""
    table = rng.choice(TABLES)
    lead_id = f"lead-{rng.randrange(1_000)}"
    origin = rng.choice(["", "", "leads/3/77"])
    sent = Sent(rng, table.workspace, table.destination, lead_id)
    sent.path = f"/callbacks/{table.workspace}/{table.destination}"
    sent.headers = {"content-type": b"application/json"}
    token = sign(rng.choice(IN_USE), table.workspace, table.destination, lead_id, origin)
    sent.document = {
        "lead_id": lead_id,
        "callback_token": token,
        "title": "CEO",
        "credits": "7",
        "attempt": 1,
    }
    for mutation in rng.choices(MUTATIONS, k=rng.choice([0, 1, 1, 1, 2, 3])):
        mutation(sent)
    return sent


async def answer_of(gateway: Gateway, sent: Sent) -> Answer:
    raw = sent.raw()
    at = sent.rng.randrange(len(raw) + 1)
    messages: list[Message] = [
        {"type": "http.request", "body": raw[:at], "more_body": True},
        {"type": "http.request", "body": raw[at:], "more_body": False},
    ]
    if sent.ends != "whole":
        messages[1:] = [{"type": "http.disconnect"}] if sent.ends == "hangs up" else []
    answer: list[Message] = []

    async def receive() -> Message:
        if not messages:
            # the sender has stopped; the gateway's own timeout must end this
            await asyncio.Event().wait()
        return messages.pop(0)

    async def send(message: Message) -> None:
        answer.append(message)

    async with asyncio.timeout(5 * BUSY):
        await gateway.app(scope_of(sent.path, sent.headers.items(), sent.method), receive, send)
    if not answer:
        return None, b""
    return int(answer[0]["status"]), b"".join(message.get("body", b"") for message in answer[1:])


def is_proven(callback: Callback, sent: list[Sent]) -> bool:
    """True if one of these requests came with a token of the callback, or with the secret of its
    table.
    """
    place = (callback.workspace, callback.destination, callback.lead_id, callback.forced_origin)
    tokens = [sign(keys, *place).encode() for keys in IN_USE]
    for one in sent:
        came = b"\n".join([one.raw(), *one.headers.values()])
        if any(token in came for token in tokens):
            return True
        with_secret = one.headers.get("x-callback-secret") in [
            secret.encode() for secret in SECRETS
        ]
        if with_secret and place[1] == "static" and one.path.startswith("/callbacks/beta/static"):
            return True
    return False


def check(findings: Findings, gateway: Gateway, sent: list[Sent], answers: list[Answer]) -> None:
    """Count requests that were under way at the same time, and check what must hold of them."""
    new = gateway.inbox.callbacks()
    gateway.inbox.records.clear()
    accepted = 0
    hung_up = 0
    for one, (status, text) in zip(sent, answers, strict=True):
        findings.requests += 1
        findings.callbacks += one.path.startswith("/callbacks/")
        findings.unanswered += status is None
        findings.statuses.update([] if status is None else [status])
        accepted += status == 200 and not one.path.startswith("/healthz")
        hung_up += one.ends == "hangs up"
        about = (
            f"request {findings.requests}: {one.method} {one.path!r} {one.headers} "
            f"{one.raw()[:300]!r}"
        )
        if any(hidden.encode() in text for hidden in HIDDEN):
            findings.faults.append(f"{about}: a secret is in the answer {text!r}")
        if status in (500, 502, 504) or (
            status is not None and one.method != "HEAD" and not text.strip()
        ):
            findings.faults.append(f"{about}: {status} {text[:300]!r}")
    if not accepted <= len(new) <= accepted + hung_up:
        findings.faults.append(
            f"{accepted} answers of 200, {len(new)} kept: {[one.raw()[:200] for one in sent]}",
        )
    for callback in new:
        if not is_proven(callback, sent):
            findings.faults.append(f"kept as {callback} without a token of it")


async def check_held(findings: Findings, gateway: Gateway, sent: list[Sent]) -> None:
    """Have Kafka take again what is held of these requests, and check it."""
    gateway.inbox.fails_with = None
    if await gateway.holding.write_rest(10):
        findings.faults.append(f"held and not written: {[one.raw()[:200] for one in sent]}")
    for callback in gateway.inbox.callbacks():
        if not is_proven(callback, sent):
            findings.faults.append(f"held as {callback} without a token of it")
    gateway.inbox.records.clear()


async def fuzz(requests: int, seed: int) -> tuple[Findings, Gateway]:
    """Send this many requests. Return their findings, and the gateway with its counters."""
    rng = random.Random(seed)
    findings = Findings()
    gateway = Gateway(limits=LIMITS)
    for _ in range(requests):
        gateway.inbox.fails_with = BrokerUnavailable("away") if rng.random() < 0.01 else None
        sent = make(rng)
        try:
            answer = await answer_of(gateway, sent)
        except Exception as error:  # noqa: BLE001 - any is a crash of the gateway, and one more line of the findings
            findings.faults.append(f"request {findings.requests}: {error!r} at {sent}")
            continue
        check(findings, gateway, [sent], [answer])
        await check_held(findings, gateway, [sent])
    counted = gateway.counted()
    responses = gateway.responses()
    if sum(counted.values()) != findings.callbacks:
        findings.faults.append(f"{findings.callbacks} callbacks, counted {counted}")
    if responses != {str(status): count for status, count in findings.statuses.items()}:
        findings.faults.append(f"answered {findings.statuses}, counted {responses}")
    if counted.get("gone", 0) != findings.unanswered:
        findings.faults.append(f"{findings.unanswered} not answered, counted {counted}")
    return findings, gateway


def bytes_of(sent: Sent) -> bytes:
    """Return the request as a client would write it, as far as that is possible."""
    raw = sent.raw()
    if sent.ends != "whole":
        raw = raw[: sent.rng.randrange(len(raw) + 1)]
    lines = {
        "host": b"gateway",
        "connection": b"close",
        "content-length": b"%d" % len(sent.raw()),
    } | sent.headers
    head = b"".join(b"%b: %b\r\n" % (name.encode(), value) for name, value in lines.items())
    path = sent.path.encode("utf-8", "surrogatepass")
    return b"%b %b HTTP/1.1\r\n%b\r\n%b" % (sent.method.encode(), path, head, raw)


async def answer_through(port: int, sent: Sent) -> Answer:
    words = bytes_of(sent)
    answer = b""
    try:
        async with asyncio.timeout(30 * BUSY):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(words)
                if sent.ends == "hangs up":
                    await writer.drain()
                else:
                    answer = await reader.readuntil(b"\r\n\r\n")
                    length = re.search(rb"\r\ncontent-length: *(\d+)", answer, re.IGNORECASE)
                    if length and sent.method != "HEAD":
                        answer += await reader.readexactly(int(length[1]))
            finally:
                writer.close()
    except (ConnectionError, TimeoutError, asyncio.IncompleteReadError):
        pass  # it was cut
    return (int(answer.split()[1]) if answer.startswith(b"HTTP/1.1 ") else None), answer


def waits(sent: Sent) -> bool:
    """True if nginx waits for bytes that do not come."""
    declared = sent.headers.get("content-length", b"0")
    return sent.ends == "stops" or (
        declared.isdigit() and len(declared) < 7 and int(declared) > len(sent.raw())
    )


async def fuzz_through_nginx(requests: int, seed: int) -> tuple[Findings, Gateway]:
    """Send this many requests to nginx, some at a time, with a gateway of this process behind it.

    Those that nginx waits for in vain come last, together.
    """
    rng = random.Random(seed)
    findings = Findings()
    gateway = Gateway(limits=THROUGH_NGINX)
    port = free_port()
    made = 0
    late = list[Sent]()
    with Nginx(port) as nginx:
        async with serve_http(gateway.app, "127.0.0.1", port, grace_s=1):
            while made < requests or late:
                sent = [make(rng) for _ in range(min(AT_ONCE, requests - made))]
                made += len(sent)
                late += filter(waits, sent)
                if sent:
                    sent = [one for one in sent if not waits(one)]
                else:
                    sent = late
                    late = []
                gateway.inbox.fails_with = (
                    BrokerUnavailable("away") if rng.random() < 0.01 else None
                )
                answers = await asyncio.gather(*(answer_through(nginx.port, one) for one in sent))
                check(findings, gateway, sent, answers)
                await check_held(findings, gateway, sent)
    return findings, gateway


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.gateway.fuzz", description=__doc__)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    log.configure("console", level="critical")
    began = time.monotonic()
    findings, gateway = asyncio.run(fuzz_through_nginx(args.requests, args.seed))
    out = Console()
    out.print(
        (
            f"{findings.requests} requests in {time.monotonic() - began:.0f} s, "
            f"{len(findings.faults)} faults"
        ),
    )
    out.print(
        f"answers: {dict(sorted(findings.statuses.items()))}, not answered: {findings.unanswered}",
    )
    out.print(f"counted: {dict(sorted(gateway.counted().items()))}")
    for line in findings.faults[:20]:
        out.print(line, markup=False)
    return 1 if findings.faults else 0


if __name__ == "__main__":
    sys.exit(main())
