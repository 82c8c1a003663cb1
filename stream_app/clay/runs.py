"""Clay's Public API: it runs routines, and says what has become of a run (docs/reference/clay.md).

Its requests go through the client for webhooks (client.py), within the same bound on connections,
and none is sent twice. `ClayApi` turns an answer into what it means. The partition asks `Routines`,
which knows the API of each destination. `Doors` sends a lead to the door of its destination.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote

import httpx
import msgspec
from attrs import define, field

from stream_app.clay.client import (
    USER_AGENT,
    ApiAnswer,
    ClayClient,
    Webhooks,
    parsed,
    proxy_secrets,
)
from stream_app.domain.model.outcome import (
    Outcome,
    classify_run,
    denied_run,
    explained,
    scrub,
)
from stream_app.domain.model.run import (
    RunAnswer,
    RunDenied,
    RunFinished,
    RunGone,
    RunItem,
    RunLimited,
    RunTooLarge,
    RunUnfinished,
    RunUnread,
    is_run_id,
)
from stream_app.domain.model.untrusted import UNREADABLE, NestedTooDeep, decode

API_KEY_HEADER: Final = b"clay-api-key"
MAX_RESULT_BYTES: Final = 2 * 1024 * 1024
"""The most bytes of a run's results, over all pages."""

_MAX_ANSWER_BYTES: Final = 4096
_MAX_PAGES: Final = 10
_GONE: Final = frozenset({400, 404, 410, 422})
_PER_PAGE: Final = 100

NotAnswered = RunGone | RunDenied | RunLimited | RunUnread
"""What becomes of a question that Clay does not answer."""


@define(frozen=True, repr=False)
class ApiEndpoint:
    """The Public API as the destinations of one workspace use it. The key is a secret."""

    url: str
    key: str


class _Sent(msgspec.Struct, frozen=True, gc=False):
    inputs: dict[str, Any]


class _SentRun(msgspec.Struct, frozen=True, gc=False):
    items: list[_Sent]


class _Begun(msgspec.Struct, frozen=True, gc=False):
    routine_run_id: str


class _ItemOfPage(msgspec.Struct, frozen=True, gc=False):
    """An item as Clay writes it. Clay may add states, and authors return any JSON."""

    id: str = ""
    status: str = ""
    result: Any = None
    error: Any = None


class _Page(msgspec.Struct, frozen=True, gc=False):
    status: str = ""
    data: list[_ItemOfPage] | None = None
    cursor: str | None = None


class _Error(msgspec.Struct, frozen=True, gc=False):
    message: str


class _Balance(msgspec.Struct, frozen=True, gc=False):
    balance: float


class _Workspace(msgspec.Struct, frozen=True, gc=False):
    id: str | int


class _Me(msgspec.Struct, frozen=True, gc=False):
    workspace: _Workspace


_sent_run: Final = msgspec.json.Decoder(_SentRun)
_begun: Final = msgspec.json.Decoder(_Begun)
_page: Final = msgspec.json.Decoder(_Page)
_error: Final = msgspec.json.Decoder(_Error)
_balance: Final = msgspec.json.Decoder(_Balance)
_me: Final = msgspec.json.Decoder(_Me)


@define(eq=False, repr=False)
class ClayApi:
    """Sends requests of the Public API through a client, and reads the answers."""

    _client: ClayClient
    _proxy_secrets: list[str] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._proxy_secrets = proxy_secrets(self._client.egress)

    async def run(self, endpoint: ApiEndpoint, routine: str, body: bytes) -> Outcome:
        """Run a routine with one lead.

        `body` is the whole request. A 2xx means that the lead is accepted, whatever the body of the
        answer is, but only a readable body names the run.

        Returns:
            The outcome. Network errors are outcomes, not exceptions. A cancellation passes through
            and leaves the lead uncertain.
        """
        request = api_request(endpoint, run_path(routine), body)
        answer = await self._client.exchange(request, _MAX_ANSWER_BYTES)
        if not isinstance(answer, ApiAnswer):
            return answer
        is_begun = 200 <= answer.status < 300
        return classify_run(
            answer.status,
            answer.retry_after,
            _words_of(answer),
            answer.latency_ms,
            _run_of(answer) if is_begun else "",
            known=() if is_begun else [*_inputs_of(body), *self._secrets(endpoint)],
        )

    async def results(self, endpoint: ApiEndpoint, run: str) -> RunAnswer:
        """Ask for the results of a run, all pages of them within one request timeout."""
        ends_at = asyncio.get_running_loop().time() + self._client.request_timeout_s
        path = results_path(run)
        items: list[RunItem] = []
        left = MAX_RESULT_BYTES
        cursor = ""
        for _ in range(_MAX_PAGES):
            asked = f"{path}&cursor={quote(cursor, safe='')}" if cursor else path
            answer = await self._ask(endpoint, asked, left, ends_at)
            if not isinstance(answer, ApiAnswer):
                return answer
            if answer.status == HTTPStatus.ACCEPTED:
                return RunUnfinished()
            if answer.end == "more":
                return RunTooLarge(f"its results have more than {MAX_RESULT_BYTES:,} bytes")
            if answer.end == "cut":
                return _broken()
            try:
                page = decode(_page, answer.body)
            except NestedTooDeep as error:
                return RunTooLarge(f"its results cannot be read: {error}")
            except UNREADABLE:
                return _broken()
            if page.data is None:
                return RunUnfinished() if page.status == "in_progress" else _broken()
            items += [self._item(endpoint, item) for item in page.data]
            if not page.cursor:
                return RunFinished(tuple(items))
            left -= len(answer.body)
            cursor = page.cursor
        return RunTooLarge(f"its results have more than {_MAX_PAGES} pages")

    async def balance(self, endpoint: ApiEndpoint) -> float | NotAnswered:
        """Ask how many credits the workspace has left."""
        answer = await self._ask(endpoint, "credits/balance", _MAX_ANSWER_BYTES)
        if not isinstance(answer, ApiAnswer):
            return answer
        try:
            return decode(_balance, answer.body).balance
        except UNREADABLE:
            return _broken()

    async def workspace(self, endpoint: ApiEndpoint) -> str | NotAnswered:
        """Ask for the id of the workspace that the key belongs to."""
        answer = await self._ask(endpoint, "me", _MAX_ANSWER_BYTES)
        if not isinstance(answer, ApiAnswer):
            return answer
        try:
            name = str(decode(_me, answer.body).workspace.id)
        except UNREADABLE:
            return _broken()
        return name if is_run_id(name) else _broken()

    async def _ask(
        self,
        endpoint: ApiEndpoint,
        path: str,
        max_bytes: int,
        ends_at: float | None = None,
    ) -> ApiAnswer | NotAnswered:
        """Send a GET. Only an answer with a 2xx is returned as it is."""
        answer = await self._client.exchange(api_request(endpoint, path), max_bytes, ends_at)
        if not isinstance(answer, ApiAnswer):
            return RunUnread(answer.reason, answer.text)
        status = answer.status
        if 200 <= status < 300:
            return answer
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            return RunLimited(answer.retry_after)
        words = scrub(_words_of(answer), known=self._secrets(endpoint))
        if status in _GONE:
            return RunGone(status, explained(status, "Clay does not know it", words))
        if 300 <= status < 500 and status != HTTPStatus.REQUEST_TIMEOUT:
            return RunDenied(status, explained(status, denied_run(status), words))
        return RunUnread(f"http_{status}", explained(status, "Clay failed", words))

    def _secrets(self, endpoint: ApiEndpoint) -> list[str]:
        """Return what must not appear in texts, because an error page can echo it."""
        return [endpoint.key, *self._proxy_secrets]

    def _item(self, endpoint: ApiEndpoint, item: _ItemOfPage) -> RunItem:
        """Return an item of a page. The inputs are not known here, so only patterns scrub it."""
        match item.result:
            case None:
                outputs = {}
            case dict():
                outputs = item.result
            case _:
                # Clay documents an object. A result of another form is kept, too: it is paid for.
                outputs = {"result": item.result}
        known = self._secrets(endpoint)
        match item.status:
            case "complete":
                return RunItem(item.id, "complete", outputs)
            case "failed":
                return RunItem(item.id, "failed", outputs, scrub(_message(item.error), known=known))
            case _:
                return RunItem(item.id, "unknown", outputs, scrub(item.status, known=known))


def run_path(routine: str) -> str:
    """Return the path, below the API's address, that runs a routine."""
    return f"routines/{quote(routine, safe=':')}/run"


def results_path(run: str) -> str:
    """Return the path, below the API's address, that asks for the results of a run."""
    return f"routines/run/{quote(run, safe='')}/results?limit={_PER_PAGE}"


def api_request(
    endpoint: ApiEndpoint,
    path: str,
    body: bytes | None = None,
) -> httpx.Request:
    """Return a POST with a body, or a GET without one."""
    url = parsed(f"{endpoint.url.rstrip('/')}/{path}")
    headers = [
        (b"host", url.netloc),
        (API_KEY_HEADER, endpoint.key.encode("ascii")),
        (b"accept-encoding", b"identity"),
        (b"user-agent", USER_AGENT.encode("ascii")),
    ]
    if body is None:
        return httpx.Request("GET", url, headers=headers, stream=httpx.ByteStream(b""))
    headers += [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
    ]
    return httpx.Request("POST", url, headers=headers, stream=httpx.ByteStream(body))


def _inputs_of(body: bytes) -> list[str]:
    """Return the values in a request, which an error can echo."""
    values = (value for item in _sent_run.decode(body).items for value in item.inputs.values())
    return [str(value) for value in values]


def _run_of(answer: ApiAnswer) -> str:
    """Return the id of the run that an answer names; '' if it cannot be read."""
    if answer.end != "whole":
        return ""
    try:
        run = decode(_begun, answer.body).routine_run_id
    except UNREADABLE:
        return ""
    return run if is_run_id(run) else ""


def _words_of(answer: ApiAnswer) -> str:
    """Return what an error says. Clay's errors have one shape; a proxy may send anything."""
    body = answer.body[:_MAX_ANSWER_BYTES]
    try:
        return decode(_error, body).message
    except UNREADABLE:
        return body.decode("utf-8", "replace")


def _message(error: object) -> str:
    """Return why an item failed, as Clay says it."""
    if isinstance(error, dict):
        error = error.get("message")
    return error if isinstance(error, str) and error else "Clay gives no reason"


def _broken() -> RunUnread:
    return RunUnread("broken_answer", "the answer is cut, or is not what Clay documents")


@define(eq=False, repr=False)
class Routines:
    """`ports.Runs` over HTTP, and the POSTs of destinations with a routine.

    `endpoints` has the API of each destination, and `accounts` that of each workspace. Calls
    `posted` with destination, outcome and trace id after each POST.
    """

    api: ClayApi
    endpoints: Mapping[str, ApiEndpoint]
    accounts: Mapping[str, ApiEndpoint]
    posted: Callable[[str, Outcome, str], None]

    async def send(self, destination: str, routine: str, body: bytes, trace_id: str) -> Outcome:
        outcome = await self.api.run(self.endpoints[destination], routine, body)
        self.posted(destination, outcome, trace_id)
        return outcome

    async def results(self, destination: str, run: str) -> RunAnswer:
        endpoint = self.endpoints.get(destination)
        if endpoint is None:
            return RunUnread("no_routine", "the destination has no routine any more")
        return await self.api.results(endpoint, run)

    async def balance(self, workspace: str) -> float | None:
        endpoint = self.accounts.get(workspace)
        left = None if endpoint is None else await self.api.balance(endpoint)
        return left if isinstance(left, float) else None


@define(eq=False, repr=False)
class Doors:
    """`ports.Clay`: each destination has a door, which is its webhooks or its routine."""

    webhooks: Webhooks
    routines: Routines

    def send(
        self,
        destination: str,
        webhook_id: str,
        body: bytes,
        trace_id: str,
    ) -> Coroutine[Any, Any, Outcome]:
        """Send a lead. This is no coroutine of its own, because each lead would pay for it."""
        door = self.routines if destination in self.routines.endpoints else self.webhooks
        return door.send(destination, webhook_id, body, trace_id)

    async def host_answers(self, destination: str) -> bool:
        """Ask whether the host of the destination's webhooks or API answers; see `HostCheck`."""
        endpoint = self.routines.endpoints.get(destination)
        if endpoint is None:
            return await self.webhooks.host_answers(destination)
        return await self.webhooks.check(endpoint.url)
