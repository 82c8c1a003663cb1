"""HTML in every field of every record: on each page it is text."""

import asyncio
import itertools
import re
import shlex
from collections import Counter
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import msgspec
import pytest

from stream_app.board.access import COOKIE
from stream_app.domain.commands import CommandAnswer
from stream_app.domain.dead_letter.causes import Filter
from stream_app.domain.dead_letter.orders import ReplayPlan, ReplayProgress, progress_row
from stream_app.domain.delivery.envelope import HEADERS
from stream_app.domain.limits.breaker import Outage
from stream_app.domain.limits.meters import Estimate
from stream_app.domain.limits.webhook_quota import Webhook
from stream_app.domain.model.messages import ImportSummary
from stream_app.domain.model.topics import TopicNames
from stream_app.domain.plan import Actor, Change
from stream_app.domain.views.lane import LaneChange, PartHold
from stream_app.ops.http import serve_http
from stream_app.services.board import board_app
from tests.board.client import PAGES, Client, assert_is_strict, board_with, crawl
from tests.board.clock import NOW_MS
from tests.board.model_records import Made, event, lane, result
from tests.board.scene import HOSTILE, OPERATOR_TOKEN

_NAMES = TopicNames()


def everything() -> Iterator[Made]:
    texts: dict[str, Any] = dict.fromkeys(
        ("reason", "text", "destination", "trace_id", "import_id"),
        HOSTILE,
    )
    summary = ImportSummary(rows=1, refused=0, leads=1, file=HOSTILE, who=HOSTILE)
    for offset, workspace in enumerate((HOSTILE, "acme", "")):
        values = {
            **texts,
            "workspace": workspace,
            "at_ms": NOW_MS - 5_000,
            "import_summary": summary,
        }
        yield event(_NAMES, HOSTILE, "parked", 1, offset, **values)
        yield event(_NAMES, f"{HOSTILE} 2", HOSTILE, 1, 10 + offset, **values)  # type: ignore[arg-type]  # no status
        yield event(_NAMES, HOSTILE, "replayed", 1, 20 + offset, **values | {"reason": "resend"})
    stored = result(_NAMES, HOSTILE, at_ms=NOW_MS)
    yield Made(stored.topic, f"acme/{HOSTILE}/{HOSTILE}".encode(), stored.value)
    for workspace in (HOSTILE, "acme"):
        yield hostile_lane(workspace)
    yield Made(_NAMES.lanes, f"not readable {HOSTILE}".encode(), b"{", 0, 9)
    headers = tuple((name, HOSTILE.encode()) for name in HEADERS.values())
    ours = tuple(
        (name, b"failed" if name == HEADERS["disposition"] else value) for name, value in headers
    )
    for topic in (_NAMES.dlq, _NAMES.parked):
        for offset, (key, given) in enumerate(
            ((HOSTILE, headers), (HOSTILE, ours), ("acme", ours)),
        ):
            yield Made(topic, key.encode(), HOSTILE.encode(), 0, offset, given, NOW_MS)
    for offset, applied in enumerate((True, False)):
        answer = CommandAnswer(
            HOSTILE,
            applied,
            NOW_MS,
            0,
            HOSTILE,
            HOSTILE,
            HOSTILE,
            HOSTILE,
            NOW_MS,
            HOSTILE,
            HOSTILE,
        )
        yield Made(_NAMES.audit, b"acme", msgspec.json.encode(answer), 0, offset)
    plan = ReplayPlan(
        NOW_MS,
        "dlq",
        Filter(reasons=frozenset({HOSTILE}), workspaces=frozenset({HOSTILE})),
        {},
        1,
        1,
        1,
    )
    actor = Actor(HOSTILE, HOSTILE, NOW_MS)
    progress = ReplayProgress(
        "r-0b9c40e1f2a",
        "stopped",
        HOSTILE,
        HOSTILE,
        NOW_MS,
        plan,
        refused=1,
        refusals={HOSTILE: HOSTILE},
        text=HOSTILE,
        by=actor,
    )
    yield Made(_NAMES.replay_state, *progress_row(progress))


def hostile_lane(workspace: str) -> Made:
    actor = Actor(HOSTILE, HOSTILE, NOW_MS)
    return lane(
        _NAMES,
        workspace,
        at_ms=NOW_MS,
        calls=9,
        holds=HOSTILE,
        text=HOSTILE,
        lifts=HOSTILE,
        since_ms=NOW_MS - 9_000,
        breaker="open",
        mode="open",
        mode_by=actor,
        paused_by=actor,
        news=(LaneChange(HOSTILE, HOSTILE), LaneChange("held", HOSTILE)),
        changes=(Change(HOSTILE, 1, 2, actor),),
        estimates={HOSTILE: Estimate(1, 1, 1)},
        webhooks={HOSTILE: Webhook(1, HOSTILE)},
        submissions_left={HOSTILE: 1},
        outage=Outage(HOSTILE, NOW_MS - 9_000, NOW_MS, 9),
        partly=(PartHold((HOSTILE,), HOSTILE, HOSTILE),),
    )


async def test_no_address_breaks_an_answer(
    with_token: Client,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """An address comes back in headers: in `Refresh` and `Location`, where it has no session."""
    await with_token.login()
    (session,) = with_token.cookies.values()
    heads = [
        b"Sec-Fetch-Site: cross-site",
        b"HX-Request: true",
        b"X: y",
        f"Cookie: {COOKIE}={session}".encode(),
    ]
    paths = [
        b"%E2%82%AC",
        b"x%0d%0aSet-Cookie:%20a=b",
        b"leads/%C3%A9%22%3E",
        b"%ff",
        b"\xe2\x82\xac",
    ]
    queries = [b"", b"?x=%E2%82%AC", b"?x=\xe2\x82\xac", b"?x=\xff", b"?%0d%0aSet-Cookie:%20a=b"]
    async with serve_http(board_app(with_token.board.routes()), "127.0.0.1", 0, grace_s=0) as port:
        for path, query, head in itertools.product(paths, queries, heads):
            for host in (b"127.0.0.1", b"[::1"):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                line = b"GET /board/" + path + query
                writer.write(
                    line
                    + b" HTTP/1.1\r\nConnection: close\r\nHost: "
                    + host
                    + b"\r\n"
                    + head
                    + b"\r\n\r\n",
                )
                answer, _, _ = (await reader.read()).partition(b"\r\n\r\n")
                assert int(answer.split()[1]) < 500, (line, head, answer)
                assert answer.isascii(), (line, head, answer)
                assert b"\r\nset-cookie" not in answer.lower(), (line, head, answer)
                writer.close()
    logged = "".join(capfd.readouterr())
    assert not [text for text in ("Traceback", "Error") if text in logged]


async def test_commands_to_copy_are_quoted_for_a_shell(tmp_path: Path) -> None:
    """A producer chooses ids of leads, and a link chooses the workspace on Audit."""
    hostile = f"x; $(touch /tmp/owned) {HOSTILE}"
    with board_with(tmp_path, event(_NAMES, hostile, "parked", 1)) as client:
        for url, words in (
            (
                f"/board/audit?workspace={quote(hostile)}",
                ["lanes", "pause", hostile, "--why", "..."],
            ),
            (f"/board/leads/{quote(hostile)}", ["status", hostile]),
        ):
            text = (await client.get(url)).text
            commands = [
                unescape(command) for command in re.findall(r"<pre>(stream-app [^<]*)</pre>", text)
            ]
            assert [shlex.split(command) for command in commands] == [["stream-app", *words]], url


async def test_html_in_every_field_is_text(tmp_path: Path) -> None:
    named = urlencode(
        dict.fromkeys(
            ("kind", "reason", "workspace", "topic", "status", "column", "begins"),
            HOSTILE,
        ),
    )
    urls = [f"/board/{path}?{named}" for path in ("leads", "lanes", "waiting", "dead/records")]
    urls += [*PAGES, f"/board/leads/{quote(HOSTILE)}", f"/board/audit?id={quote(HOSTILE)}"]
    shown: Counter[str] = Counter()
    with board_with(tmp_path, *everything(), token=True, operator=True) as client:
        await client.login(OPERATOR_TOKEN)
        async for url, answer, page in crawl(client, urls):
            if answer.headers["content-type"].startswith("text/html"):
                assert_is_strict(url, answer, page)
                shown["/".join(urlsplit(url).path.split("/")[:3])] += (
                    "&lt;script&gt;" in answer.text
                )
            # a file, which no browser takes for a page
            elif answer.headers["content-type"].startswith("text/csv"):
                assert answer.headers["x-content-type-options"] == "nosniff"
                assert answer.headers["content-disposition"].startswith("attachment")
        readable = (await client.get("/board/lanes/acme")).text
    names = ("lanes", "leads", "imports", "dead", "books", "audit", "replays")
    assert {kind for kind, many in shown.items() if many} >= {
        "/board",
        *(f"/board/{name}" for name in names),
    }
    assert readable.count("&lt;script&gt;") > 15, "the view of the lane is readable"
