"""What may be wrong with a callback: each mutation changes one thing of a good one."""

import gzip
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from stream_app.domain.model.tokens import Keys, sign
from tests.gateway.support import GONE_KEY, NEW_KEY, OLD_KEY, SECRET

IN_USE = [Keys([NEW_KEY]), Keys([OLD_KEY])]
SECRETS = (SECRET, "the one before")
HIDDEN = (NEW_KEY, OLD_KEY, GONE_KEY, *SECRETS)


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


Mutation = Callable[[Sent], None]


def wrong_token(sent: Sent) -> None:
    rng = sent.rng
    place = (sent.workspace, sent.destination, sent.lead_id)
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
        ],
    )


def wrong_lead(sent: Sent) -> None:
    sent.document["lead_id"] = sent.rng.choice(
        [
            f"{sent.lead_id}-of-another-table",
            sent.lead_id.upper(),
            "",
            None,
            17,
            True,
            [sent.lead_id],
            {"id": 1},
            "{{lead_id}}",
            "ada@example.com",
            "a" * 500,
            "../x",
            "\ud800",
            f" {sent.lead_id}",
            f"{sent.lead_id}\n",
        ],
    )


def values(sent: Sent) -> None:
    name = sent.rng.choice(
        [*sent.document, "fields", "data", "status", "error", "credits", "workspace", "_x", "new"],
    )
    sent.document[name] = sent.rng.choice(
        [
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
        ],
    )


def missing(sent: Sent) -> None:
    if sent.document:
        sent.document.pop(sent.rng.choice(list(sent.document)))


def not_an_object(sent: Sent) -> None:
    sent.body = sent.rng.choice(
        [
            b"",
            b"null",
            b"[]",
            b"42",
            b'"text"',
            b"[" * 5_000,
            b'{"a":' * 3_000,
            json.dumps([sent.document]).encode(),
            b" ",
            b"{",
            b"\xef\xbb\xbf",
            b"a=1&b=2",
            b"<xml/>",
            b"{}" * 10,
        ],
    )


def unescaped(sent: Sent) -> None:
    text = sent.rng.choice(
        ['they said "call me" twice', 'a "b', "line\nbreak", 'x", "lead_id": "other', "\\", "\x00"],
    )
    sent.body = sent.raw().removesuffix(b"}") + f', "note": "{text}"}}'.encode()


def trailing(sent: Sent) -> None:
    sent.body = sent.raw().removesuffix(b"}") + sent.rng.choice(
        [b",}", b', "c": }', b', "c": {{C}}}', b"", b"}}"],
    )


def bytes_(sent: Sent) -> None:
    rng = sent.rng
    raw = bytearray(sent.raw())
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
            text.encode("utf-16"),
            text.encode("latin-1", "replace"),
            gzip.compress(raw),
            b"\xef\xbb\xbf" + raw,
            raw * 2,
            raw + b" " * 20_000,
            raw + b"\x00",
            text.replace('"', "'").encode(),
        ],
    )


def headers(sent: Sent) -> None:
    rng = sent.rng
    name, options = rng.choice(
        [
            (
                "content-type",
                [
                    b"text/plain",
                    b"",
                    b"application/json; charset=utf-16",
                    b"application/x+json",
                    b"\xff",
                ],
            ),
            ("content-encoding", [b"gzip", b"br", b"identity", b"", b"gzip, gzip"]),
            (
                "content-length",
                [b"5", b"-1", b"99999999999999999999", b"x", b"100000000", "²".encode()],
            ),
            (
                "x-callback-token",
                [b"", b" ", b"x", b"\xff\x00", b"{{t}}", b"a.b.c.d", NEW_KEY.encode()],
            ),
            (
                "x-callback-secret",
                [b"", SECRET.encode()[:-1], b"\xff", NEW_KEY.encode(), b"x" * 8_000],
            ),
        ],
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
    path = f"/callbacks/{sent.workspace}/{sent.destination}"
    sent.path = sent.rng.choice(
        [
            "/callbacks/beta/static",
            "/callbacks/acme/other",
            "/callbacks/acme/none",
            "/callbacks/",
            "/callbacks",
            f"{path}/",
            f"/{path}",
            f"{path}/..",
            path.upper(),
            f"{path}\u0000",
            f"{path}%2f",
            f"{path} ",
            "/",
            "",
            "/callbacks/" + "x" * 5_000,
            "/callbacks/\ud800/é",
            "/callbacks/acme%2fpeople",
            "/nothing",
            path + "?x=1",
        ],
    )


def methods(sent: Sent) -> None:
    sent.method = sent.rng.choice(["GET", "HEAD", "PUT", "OPTIONS", "post", "", "TRACE", "PATCH"])


def endings(sent: Sent) -> None:
    sent.ends = sent.rng.choices(["hangs up", "stops"], [20, 1])[0]


MUTATIONS: list[Mutation] = [
    *(
        wrong_token,
        wrong_lead,
        values,
        missing,
        not_an_object,
        unescaped,
        trailing,
        bytes_,
        encodings,
        headers,
    ),
    *(token_in_a_header, secret, paths, methods, endings),
]
