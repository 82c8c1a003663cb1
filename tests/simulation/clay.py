"""Clay, as the schedule has it: each POST meets the next scripted fate; the ledger holds what
really arrived.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, Literal

from stream_app.domain.model.outcome import (
    Accepted,
    Denied,
    Outcome,
    Poison,
    RateLimited,
    Refused,
    Uncertain,
    WebhookOut,
)
from stream_app.domain.model.run import (
    RunAnswer,
    RunDenied,
    RunFinished,
    RunGone,
    RunItem,
    RunLimited,
    RunUnfinished,
    RunUnread,
)
from tests.simulation.loop import Process, SimLoop

Fate = Literal[
    "accepted",
    "slow",
    "limited",  # 429
    "busy",  # 503, taken as refused
    "unreachable",  # nothing ever leaves
    "lost_before",  # reset, and Clay has nothing
    "lost_after",  # reset, and Clay has it
    "hang",  # Clay has it, and never answers
    "poison",  # 400
    "denied",  # 401
    "out",  # its webhook is full, refused or gone, for good
]
Answer = Literal[
    "enriched",
    "no_data",
    "partial",  # and some time later all of it
    "lost",
    "doubled",
    "reordered",  # attempt 2 before attempt 1
    "early",  # before the POST is answered
    "late",  # long after a grace
]
PollFate = Literal[
    "answered",
    "slow",
    "limited",  # 429
    "unread",
    "gone",  # 404
    "denied",  # 401
]
"""What a poll meets."""
Announced = Literal["once", "doubled", "late", "early", "lost", "forged"]
"""How Clay announces the end of a run. `forged`: somebody who knows the secret announces a run that
is none, beside the one of Clay.
"""
ANNOUNCEMENTS: Final[dict[Announced, tuple[float, ...]]] = {
    "once": (0.05,),
    "doubled": (0.05, 0.055, 30.0),
    "late": (300.0,),
    "early": (-1_000.0, 0.05),
    "lost": (),
    "forged": (0.05,),
}
"""Seconds after the end of the run; at once if that is before it has begun."""
ANSWERS: Final[dict[Answer, tuple[tuple[float, str, int], ...]]] = {
    "enriched": ((3.0, "enriched", 1),),
    "no_data": ((3.0, "no_data", 1),),
    "partial": ((3.0, "partial", 1), (9.0, "enriched", 1)),
    "lost": (),
    "doubled": ((3.0, "enriched", 1), (3.005, "enriched", 1)),
    "reordered": ((3.0, "enriched", 2), (4.0, "partial", 1)),
    "early": ((0.001, "enriched", 1),),
    "late": ((400.0, "enriched", 1),),
}
"""(seconds after Clay has the row, outcome, attempt) of each callback."""

ENDS: Final[dict[Answer, tuple[float, str] | None]] = {
    "enriched": (3.0, "enriched"),
    "no_data": (3.0, "no_data"),
    "partial": (3.0, "partial"),
    "lost": None,
    "doubled": (3.0, "enrich_error"),
    "reordered": (20.0, "enriched"),
    "early": (0.001, "enriched"),
    "late": (400.0, "enriched"),
}
"""Seconds after Clay has the item, and the outcome; None: the run hangs."""

COUNTED: Final = ("work_email", "phone")
"""The columns that count at each destination that is called back."""


def results_of(serial: int, outcome: str) -> dict[str, str]:
    """The results that Clay has of a lead, in an answer of this outcome."""
    results: dict[str, str] = {}
    if outcome in ("enriched", "partial"):
        results["title"] = "CTO"
        if serial % 2:
            results["phone"] = "1"
    if outcome == "enriched" and serial % 3:
        results["work_email"] = "a@b.example"
    return results


OUT: Final = (
    WebhookOut(403, 100, "full", "HTTP 403: it is full"),
    WebhookOut(404, 100, "gone", "HTTP 404: Clay does not know it"),
    WebhookOut(403, 100, "refused", "HTTP 403: Clay refuses it"),
)
TAKES: Final = frozenset({"accepted", "slow", "lost_after", "hang"})
REQUEST_TIMEOUT_S: Final = 15.0
_ON_THE_WAY_S: Final = 0.01
_SLOW_S: Final = 8.0


@dataclass(slots=True)
class Post:
    """One POST: `serial` names the input record; `took`: Clay has the row, and will be paid for it.

    `not_before_ms`: what its Retry-After comes to, 0 without one. `cost`: in credits; `callbacks`:
    when each came, in seconds. Of a routine: `run`, `item`, and when and how the run ends, in
    seconds after `taken_s`; None: it hangs.
    """

    at_ms: int
    worker: str
    serial: int
    destination: str
    webhook_id: str
    fate: Fate
    took: bool = False
    not_before_ms: int = 0
    lead_id: str = ""
    cost: int = 0
    callbacks: list[float] = field(default_factory=list)
    run: str = ""
    item: str = ""
    taken_s: float = 0.0
    end: tuple[float, str] | None = None


def item_of(post: Post, outcome: str) -> RunItem:
    """The item of a finished run."""
    if outcome == "enrich_error":
        return RunItem(post.item, "failed", text="no luck")
    outputs: dict[str, object] = {**results_of(post.serial, outcome), "credits": post.cost}
    if outcome == "partial":
        outputs["status"] = "partial"
    return RunItem(post.item, "complete", outputs)


def answer_of(post: Post, fate: PollFate, now_s: float) -> RunAnswer:
    """What Clay says of a run now."""
    match fate:
        case "limited":
            return RunLimited("2" if post.serial % 2 else None)
        case "unread":
            return RunUnread("reset", "reset")
        case "gone":
            return RunGone(404, "no such run")
        case "denied":
            return RunDenied(401, "no such key")
        case _:
            ended = post.end is not None and post.taken_s + post.end[0] <= now_s
            if not ended or post.end is None:
                return RunUnfinished()
            return RunFinished((item_of(post, post.end[1]),))


class FakeClay:
    """All of Clay.

    `fates` are met in the order in which POSTs start; when they end, everything is accepted.

    `answers` are those to the rows that it takes, in their order; when they end, everything is
    enriched. `polls` are met in the order in which polls start; when they end, each is
    answered. The runs are announced as `announced` says, in the order in which they begin; when it
    ends, none is.
    """

    def __init__(
        self,
        loop: SimLoop,
        now_ms: Callable[[], int],
        fates: Iterator[Fate],
        answers: Iterator[Answer],
        drop_in_flight: bool,
        polls: Iterator[PollFate],
        announced: Iterator[Announced],
    ) -> None:
        self.posts: list[Post] = []
        self.on_poll: Callable[[Post, str], None] = lambda post, worker: None
        self.on_results: Callable[[Post, RunAnswer], None] = lambda post, answer: None
        self.on_limited: Callable[[Post, str, int], None] = lambda post, worker, until_ms: None
        self.on_announcement: Callable[[Post, str], None] = lambda post, run: None
        self._polls = polls
        self._announced = announced
        self._runs: dict[str, Post] = {}
        self.on_callback: Callable[[Post, str, int], None] = lambda post, outcome, attempt: None
        self.on_post: Callable[[Post], None] = lambda post: None
        self.on_arrival: Callable[[Post], None] = lambda post: None
        self.on_answer: Callable[[Post], None] = lambda post: None
        self._loop = loop
        self._now_ms = now_ms
        self._fates = fates
        self._answers = answers
        self._drop_in_flight = drop_in_flight
        self._limits = 0
        self._out: dict[str, WebhookOut] = {}
        self._webhooks: dict[str, set[str]] = {}

    def client(self, process: Process) -> ProcessClay:
        return ProcessClay(self, self._loop, process)

    def pool(self, destination: str, webhook_ids: tuple[str, ...]) -> None:
        self._webhooks[destination] = set(webhook_ids)

    def start(self, process: Process, destination: str, webhook_id: str, body: bytes) -> Post:
        fate: Fate = next(self._fates, "accepted")
        if webhook_id in self._out:
            fate = "out"
        elif fate == "out":
            # The last webhook of a pool stays: that lane would stand still for ever.
            if len(self._webhooks[destination] - self._out.keys()) > 1:
                self._out[webhook_id] = OUT[len(self._out) % len(OUT)]
            else:
                fate = "accepted"
        sent = json.loads(body)
        [item] = sent.get("items", [{"inputs": sent}])
        row = item["inputs"]
        post = Post(
            self._now_ms(),
            process.name,
            row["serial"],
            destination,
            webhook_id,
            fate,
            lead_id=row.get("lead_id", ""),
            item=item.get("id", ""),
        )
        if post.item:
            post.run = f"run-{len(self._runs)}"
            self._runs[post.run] = post
        self.posts.append(post)
        self.on_post(post)
        return post

    def arrive(self, post: Post, process: Process) -> None:
        if post.fate == "unreachable" or (process.dead and self._drop_in_flight):
            return
        post.took = post.fate in TAKES
        self.on_arrival(post)
        if post.took and post.item:
            post.cost = 2 + post.serial % 7
            post.taken_s = self._loop.time()
            post.end = ENDS[next(self._answers, "enriched")]
            self._announce(post, next(self._announced, "lost"))
        elif post.took:
            post.cost = 2 + post.serial % 7
            for after_s, outcome, attempt in ANSWERS[next(self._answers, "enriched")]:
                self._loop.outside(after_s, self._call_back, post, outcome, attempt)

    def _announce(self, post: Post, how: Announced) -> None:
        if how == "forged":
            self._loop.outside(0.05, self.on_announcement, post, f"no-{post.run}")
        if post.end is not None:
            for after_s in ANNOUNCEMENTS[how]:
                at_s = max(0.0, post.end[0] + after_s)
                self._loop.outside(at_s, self.on_announcement, post, post.run)

    def _call_back(self, post: Post, outcome: str, attempt: int) -> None:
        post.callbacks.append(self._loop.time())
        self.on_callback(post, outcome, attempt)

    def outcome(self, post: Post) -> tuple[float, Outcome]:
        """When the worker knows, and what."""
        match post.fate:
            case "accepted":
                return 0.1, Accepted(202 if post.run else 200, 100, run=post.run)
            case "slow":
                return 12.0, Accepted(202 if post.run else 200, 12_000, run=post.run)
            case "limited":
                self._limits += 1
                after_s = (None, 0, 2, 30)[self._limits % 4]
                post.not_before_ms = post.at_ms + 100 + 1000 * (after_s or 0)
                return 0.1, RateLimited(429, 100, None if after_s is None else str(after_s))
            case "busy":
                after_s = 3 if post.serial % 2 else None
                post.not_before_ms = post.at_ms + 100 + 1000 * (after_s or 0)
                after = None if after_s is None else str(after_s)
                return 0.1, Refused("http_503", 100, 503, "busy", retry_after=after)
            case "unreachable":
                return 0.05, Refused("connect_refused", 50)
            case "lost_before" | "lost_after":
                return 0.2, Uncertain("reset", 200)
            case "hang":
                return REQUEST_TIMEOUT_S, Uncertain(
                    "request_timeout",
                    int(REQUEST_TIMEOUT_S * 1000),
                )
            case "poison":
                return 0.1, Poison(400, 100, "bad row")
            case "denied":
                return 0.1, Denied(401, 100, "token")
            case "out":
                return 0.1, self._out[post.webhook_id]

    def poll(self, run: str, worker: str) -> tuple[Post, PollFate] | None:
        """A worker asks for the results of a run; None if there is no such run."""
        post = self._runs.get(run)
        if post is None:
            return None
        self.on_poll(post, worker)
        return post, next(self._polls, "answered")


class ProcessClay:
    """`ports.Clay` and `ports.Runs` for one process."""

    def __init__(self, clay: FakeClay, loop: SimLoop, process: Process) -> None:
        self._clay = clay
        self._loop = loop
        self._process = process

    async def host_answers(self, destination: str) -> bool:
        return True

    async def results(self, destination: str, run: str) -> RunAnswer:
        polled = self._clay.poll(run, self._process.name)
        if polled is None:
            await asyncio.sleep(0.1)
            return RunGone(404, "no such run")
        post, fate = polled
        came = self._loop.create_future()

        def arrive() -> None:
            if not came.done():
                came.set_result(answer_of(post, fate, self._loop.time()))

        self._loop.outside(_SLOW_S if fate == "slow" else 0.1, arrive)
        answer: RunAnswer = await came
        self._clay.on_results(post, answer)
        if isinstance(answer, RunLimited) and answer.retry_after is not None:
            self._clay.on_limited(post, self._process.name, 1000 * int(answer.retry_after))
        return answer

    async def balance(self, destination: str) -> float | None:
        await asyncio.sleep(0.1)
        return 1_000.0

    async def send(self, destination: str, webhook_id: str, body: bytes, trace_id: str) -> Outcome:
        post = self._clay.start(self._process, destination, webhook_id, body)
        self._loop.outside(_ON_THE_WAY_S, self._clay.arrive, post, self._process)
        answer = self._loop.create_future()
        after_s, outcome = self._clay.outcome(post)
        self._loop.outside(after_s, lambda: None if answer.done() else answer.set_result(None))
        await answer
        self._clay.on_answer(post)
        return outcome
