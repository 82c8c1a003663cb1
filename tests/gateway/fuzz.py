"""Mutated callbacks, by seed, through the gateway: none crashes it, none is taken without its token, each is counted.

    python -m tests.gateway.fuzz --requests 100000 --seed 1

The check does not ask the gateway's code what is right: a callback that was kept must have come with the very text of a
token that some key in use gives for that lead at that table, or with that table's secret.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from starlette.types import Message, Scope

from stream_app.domain.callback.token import Keys, sign
from stream_app.domain.errors import BrokerUnavailable
from stream_app.gateway.receiver import Limits
from stream_app.ops import logs as log
from tests.gateway.support import GONE_KEY, NEW_KEY, OLD_KEY, SECRET, TABLES, Gateway

IN_USE = [Keys([NEW_KEY]), Keys([OLD_KEY])]
SECRETS = (SECRET, "the one before")
HIDDEN = (NEW_KEY, OLD_KEY, GONE_KEY, *SECRETS)
LIMITS = Limits(max_body_bytes=16_384, read_timeout_s=0.05)


@dataclass
class Sent:
    """A request that may still be mutated: a document until `body` is set."""

    rng: random.Random
    workspace: str
    destination: str
    lead_id: str
    method: str = "POST"
    path: str = ""
    headers: dict[str, bytes] = field(default_factory=dict)
    document: dict[str, Any] = field(default_factory=dict)
    body: bytes | None = None
    ends: str = "whole"

    def raw(self) -> bytes:
        """Return the body, for mutations of bytes."""
        if self.body is None:
            self.body = json.dumps(self.document).encode("utf-8", "surrogatepass")
        return self.body


@dataclass
class Ledger:
    """What happened. `faults` must stay empty."""

    requests: int = 0
    callbacks: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    unanswered: int = 0
    faults: list[str] = field(default_factory=list)


# ------------------------------------------------------------------------------------------------------------ mutations

Mutation = Callable[[Sent], None]


def wrong_token(sent: Sent) -> None:
    rng, place = sent.rng, (sent.workspace, sent.destination, sent.lead_id)
    token = str(sent.document.get("callback_token", ""))
    sent.document["callback_token"] = rng.choice(
        [
            sign(Keys([GONE_KEY]), *place),
            sign(IN_USE[0], *place[:2], "another-lead"),
            sign(IN_USE[0], place[0], "another-table", place[2]),
            sign(IN_USE[1], "another", *place[1:]),
            sign(IN_USE[0], *place, "leads/0/1").rpartition(".")[0],
            f"{sign(IN_USE[0], *place)}.bGVhZHMvMC8x",
            token.upper(),
            token[: rng.randrange(len(token) + 1)],
            token.replace(".", rng.choice(["", "..", "=", " "]), 1),
            f"{IN_USE[0].first}.{rng.randbytes(32).hex()}",
            token + rng.choice(["=", " x", ".", "\u0000", "é"]),
            rng.choice(HIDDEN),
            "{{callback_token}}",
            "x" * rng.randrange(3_000),
            None,
            0,
            [token],
        ]
    )


def wrong_lead(sent: Sent) -> None:
    sent.document["lead_id"] = sent.rng.choice(
        [
            *(f"{sent.lead_id}-of-another-table", sent.lead_id.upper(), "", None, 17, True, [sent.lead_id], {"id": 1}),
            *("{{lead_id}}", "ada@example.com", "a" * 500, "../x", "\ud800", f" {sent.lead_id}", f"{sent.lead_id}\n"),
        ]
    )


def values(sent: Sent) -> None:
    name = sent.rng.choice([*sent.document, "fields", "data", "status", "error", "credits", "workspace", "_x", "new"])
    sent.document[name] = sent.rng.choice(
        [
            *(
                "",
                None,
                "0",
                -1,
                1e300,
                10**30,
                "9" * 400,
                True,
                [],
                {},
                [[]],
                {"a": {"b": 1}},
                {"title": "CEO"},
                "\u0000",
            ),
            *(
                "{{ Title }}",
                "Hi {{name}}",
                "error",
                "success",
                "x" * 9_000,
                "\u202e",
                "\ud83d\ude00",
                "NaN",
                '"',
                "\\",
            ),
        ]
    )


def missing(sent: Sent) -> None:
    if sent.document:
        sent.document.pop(sent.rng.choice(list(sent.document)))


def not_an_object(sent: Sent) -> None:
    sent.body = sent.rng.choice(
        [
            *(
                b"",
                b"null",
                b"[]",
                b"42",
                b'"text"',
                b"[" * 5_000,
                b'{"a":' * 3_000,
                json.dumps([sent.document]).encode(),
            ),
            *(b" ", b"{", b"\xef\xbb\xbf", b"a=1&b=2", b"<xml/>", b"{}" * 10),
        ]
    )


def unescaped(sent: Sent) -> None:
    text = sent.rng.choice(['they said "call me" twice', 'a "b', "line\nbreak", 'x", "lead_id": "other', "\\", "\x00"])
    sent.body = sent.raw().removesuffix(b"}") + f', "note": "{text}"}}'.encode()


def trailing(sent: Sent) -> None:
    sent.body = sent.raw().removesuffix(b"}") + sent.rng.choice([b",}", b', "c": }', b', "c": {{C}}}', b"", b"}}"])


def bytes_(sent: Sent) -> None:
    rng, raw = sent.rng, bytearray(sent.raw())
    for _ in range(rng.choice([1, 1, 2, 5, 20])):
        at = rng.randrange(len(raw) + 1)
        match rng.randrange(4):
            case 0:
                raw[at:at] = rng.randbytes(rng.randrange(1, 5))
            case 1:
                del raw[at : at + rng.randrange(1, 20)]
            case 2:
                raw[at : at + 1] = rng.choice(b'"\\{}[],:\x00\xff0aA').to_bytes(1, "big")
            case _:
                raw[at:at] = raw[at : at + rng.randrange(40)]
    sent.body = bytes(raw)


def encodings(sent: Sent) -> None:
    raw = sent.raw()
    text = raw.decode("utf-8", "replace")
    sent.body = sent.rng.choice(
        [
            *(
                text.encode("utf-16"),
                text.encode("latin-1", "replace"),
                gzip.compress(raw),
                b"\xef\xbb\xbf" + raw,
                raw * 2,
            ),
            *(raw + b" " * 20_000, raw + b"\x00", text.replace('"', "'").encode()),
        ]
    )


def headers(sent: Sent) -> None:
    rng = sent.rng
    name, options = rng.choice(
        [
            ("content-type", [b"text/plain", b"", b"application/json; charset=utf-16", b"application/x+json", b"\xff"]),
            ("content-encoding", [b"gzip", b"br", b"identity", b"", b"gzip, gzip"]),
            ("content-length", [b"5", b"-1", b"99999999999999999999", b"x", b"100000000", "²".encode()]),
            ("x-callback-token", [b"", b" ", b"x", b"\xff\x00", b"{{t}}", b"a.b.c.d", NEW_KEY.encode()]),
            ("x-callback-secret", [b"", SECRET.encode()[:-1], b"\xff", NEW_KEY.encode(), b"x" * 8_000]),
        ]
    )
    sent.headers[name] = rng.choice(options)


def token_in_a_header(sent: Sent) -> None:
    token = sent.document.pop("callback_token", None)
    if isinstance(token, str):
        sent.headers["x-callback-token"] = token.encode("utf-8", "surrogatepass")


def secret(sent: Sent) -> None:
    sent.headers["x-callback-secret"] = sent.rng.choice(SECRETS).encode()
    if sent.rng.random() < 0.7:
        sent.document.pop("callback_token", None)
        sent.path = "/callbacks/beta/static"


def paths(sent: Sent) -> None:
    here = f"/callbacks/{sent.workspace}/{sent.destination}"
    sent.path = sent.rng.choice(
        [
            *("/callbacks/beta/static", "/callbacks/acme/other", "/callbacks/acme/none", "/callbacks/", "/callbacks"),
            *(f"{here}/", f"/{here}", f"{here}/..", here.upper(), f"{here}\u0000", f"{here}%2f", f"{here} ", "/", ""),
            *(
                "/callbacks/" + "x" * 5_000,
                "/callbacks/\ud800/é",
                "/callbacks/acme%2fpeople",
                "/nothing",
                here + "?x=1",
            ),
        ]
    )


def methods(sent: Sent) -> None:
    sent.method = sent.rng.choice(["GET", "HEAD", "PUT", "OPTIONS", "post", "", "TRACE", "PATCH"])


def endings(sent: Sent) -> None:
    sent.ends = sent.rng.choices(["hangs up", "stops"], [20, 1])[0]


MUTATIONS: list[Mutation] = [
    *(wrong_token, wrong_lead, values, missing, not_an_object, unescaped, trailing, bytes_, encodings, headers),
    *(token_in_a_header, secret, paths, methods, endings),
]


# --------------------------------------------------------------------------------------------------------- one request


def make(rng: random.Random) -> Sent:
    """Return a good callback after none to three mutations."""
    table = rng.choice(TABLES)
    lead_id = f"lead-{rng.randrange(1_000)}"
    origin = rng.choice(["", "", "leads/3/77"])
    sent = Sent(rng, table.workspace, table.destination, lead_id)
    sent.path = f"/callbacks/{table.workspace}/{table.destination}"
    sent.headers = {"content-type": b"application/json"}
    token = sign(rng.choice(IN_USE), table.workspace, table.destination, lead_id, origin)
    sent.document = {"lead_id": lead_id, "callback_token": token, "title": "CEO", "credits": "7", "attempt": 1}
    for mutation in rng.choices(MUTATIONS, k=rng.choice([0, 1, 1, 1, 2, 3])):
        mutation(sent)
    return sent


async def answer_of(gateway: Gateway, sent: Sent) -> tuple[int | None, bytes]:
    """Return status and body, or None if the gateway did not answer."""
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
            await asyncio.Event().wait()  # the sender has stopped; the gateway's own timeout must end this
        return messages.pop(0)

    async def send(message: Message) -> None:
        answer.append(message)

    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": sent.method,
        "path": sent.path,
        "raw_path": sent.path.encode("utf-8", "surrogatepass"),
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "headers": [(name.encode(), value) for name, value in sent.headers.items()],
        "client": ("192.0.2.1", 1),
        "server": ("gateway", 80),
    }
    async with asyncio.timeout(5):
        await gateway.app(scope, receive, send)
    if not answer:
        return None, b""
    return int(answer[0]["status"]), b"".join(message.get("body", b"") for message in answer[1:])


def check(ledger: Ledger, gateway: Gateway, sent: Sent, kept: int, status: int | None, text: bytes) -> None:
    """Check what must hold of every request."""
    ledger.requests += 1
    ledger.callbacks += sent.path.startswith("/callbacks/")
    if status is None:
        ledger.unanswered += 1
    else:
        ledger.statuses[status] += 1
    new = gateway.shelf.callbacks(kept)
    about = f"request {ledger.requests}: {sent.method} {sent.path!r} {sent.headers} {sent.raw()[:300]!r}"
    if (status == 200) != (len(new) == 1 or (sent.path == "/healthz" and not new)):
        ledger.faults.append(f"{about}: {status}, but {len(new)} kept")
    if status is None and sent.ends != "hangs up":
        ledger.faults.append(f"{about}: not answered")
    if status == 500 or (status is not None and sent.method != "HEAD" and not text.strip()):
        ledger.faults.append(f"{about}: {status} {text!r}")
    if any(hidden.encode() in text for hidden in HIDDEN):
        ledger.faults.append(f"{about}: a secret is in the answer {text!r}")
    for callback in new:
        place = (callback.workspace, callback.destination, callback.lead_id, callback.forced_origin)
        came = b"\n".join([sent.raw(), *sent.headers.values()])
        proven = any(sign(keys, *place).encode() in came for keys in IN_USE)
        with_secret = place[1] == "static" and sent.headers.get("x-callback-secret") in [s.encode() for s in SECRETS]
        if not (proven or with_secret) or f"/callbacks/{place[0]}/{place[1]}" != sent.path:
            ledger.faults.append(f"{about}: kept as {callback} without a token of it")


async def fuzz(requests: int, seed: int) -> tuple[Ledger, Gateway]:
    """Send this many requests. Return their ledger, and the gateway with its counters."""
    rng, ledger, gateway = random.Random(seed), Ledger(), Gateway(limits=LIMITS)
    for _ in range(requests):
        gateway.shelf.fails_with = BrokerUnavailable("away") if rng.random() < 0.01 else None
        if len(gateway.shelf.records) > 1_000:
            gateway.shelf.records.clear()
        sent, kept = make(rng), len(gateway.shelf.records)
        try:
            status, text = await answer_of(gateway, sent)
        except Exception as error:  # noqa: BLE001 - any is a crash of the gateway, and one more line of the ledger
            ledger.faults.append(f"request {ledger.requests}: {error!r} at {sent}")
            continue
        check(ledger, gateway, sent, kept, status, text)
    counted, responses = gateway.counted(), gateway.responses()
    if sum(counted.values()) != ledger.callbacks:
        ledger.faults.append(f"{ledger.callbacks} callbacks, counted {counted}")
    if responses != {str(status): count for status, count in ledger.statuses.items()}:
        ledger.faults.append(f"answered {ledger.statuses}, counted {responses}")
    if counted.get("gone", 0) != ledger.unanswered:
        ledger.faults.append(f"{ledger.unanswered} not answered, counted {counted}")
    return ledger, gateway


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.gateway.fuzz", description=__doc__)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    log.configure("console", level=50)
    began = time.monotonic()
    ledger, gateway = asyncio.run(fuzz(args.requests, args.seed))
    out = Console()
    out.print(f"{ledger.requests} requests in {time.monotonic() - began:.0f} s, {len(ledger.faults)} faults")
    out.print(f"answers: {dict(sorted(ledger.statuses.items()))}, not answered: {ledger.unanswered}")
    out.print(f"counted: {dict(sorted(gateway.counted().items()))}")
    for line in ledger.faults[:20]:
        out.print(line, markup=False)
    return 1 if ledger.faults else 0


if __name__ == "__main__":
    sys.exit(main())
