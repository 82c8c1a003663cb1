"""The script of a simulator: its webhooks, workspaces, limits and faults, in TOML or JSON.

Defaults are the known facts about Clay; unknown behaviour is a setting. Amounts of money are in
Data Credits and Actions, times in seconds unless the name says otherwise.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec

Fraction = Annotated[float, msgspec.Meta(ge=0, le=1)]
Seconds = Annotated[float, msgspec.Meta(ge=0)]
PositiveNumber = Annotated[float, msgspec.Meta(gt=0)]
Count = Annotated[int, msgspec.Meta(ge=0)]
HttpStatus = Annotated[int, msgspec.Meta(ge=300, le=599)]
RetryAfter = Literal["absent", "seconds", "date", "zero"]
EndpointName = Literal["webhook", "run", "results", "me", "balance"]
NetworkError = Literal["ECONNREFUSED", "ECONNRESET", "ETIMEDOUT"]


class ScriptPart(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all parts of a script."""


class RowLatency(ScriptPart, frozen=True, kw_only=True):
    """The time of a row from the webhook to its callback.

    Log-normal around `median_s`, never under `min_s`. A share of `slow_share` of the rows is
    research that takes about `slow_s`. `scale` multiplies everything, so that tests can use `scale
    = 0.001` (0: at once).
    """

    min_s: Seconds = 5.0
    median_s: PositiveNumber = 18.0
    p95_s: PositiveNumber = 60.0
    slow_share: Fraction = 0.02
    slow_s: Seconds = 240.0
    scale: Seconds = 1.0


class PaidColumn(ScriptPart, frozen=True, kw_only=True):
    """A paid enrichment column.

    It is charged when it starts; an error refunds the credits, a miss does not.

    `values` are its possible results. The seed selects one; text may hold `{{placeholders}}` of
    other cells.
    """

    name: str
    credits: Count = 1
    actions: Count = 0
    miss_share: Fraction = 0.0
    error_share: Fraction = 0.0
    values: tuple[str | int | float | bool, ...] = ("found",)


class Retry(ScriptPart, frozen=True, kw_only=True):
    """`Retry on failure` of an HTTP API column. It repeats at once, without a delay.

    Attributes:
        most: How often a call is repeated.
        statuses: The answers that are repeated. What is set replaces the default.
        errors: The errors of the network that are repeated, likewise.
    """

    enabled: bool = True
    most: Annotated[int, msgspec.Meta(ge=1, le=5)] = 1
    statuses: tuple[Annotated[int, msgspec.Meta(ge=400, le=599)], ...] = (408, 413, 429)
    errors: tuple[NetworkError, ...] = ("ECONNREFUSED", "ECONNRESET", "ETIMEDOUT")


WELL_SET = Retry(most=5, statuses=(408, 429, 500, 501, 502, 503, 504))
WELL_SET_TIMEOUT_S = 95.0


class HttpColumn(ScriptPart, frozen=True, kw_only=True):
    """The HTTP API column that reports a row's result. Each POST that it sends costs one Action.

    `url`, `headers` and `body` may hold `{{placeholders}}`: a field of the payload, a column, or
    `clay_row`, `clay_run`, `clay_attempt`, `clay_credits`. Without a body it sends the two echo
    fields and all columns.

    A row whose `url` comes out empty, or that found nothing while `run_if = "found"`, sends nothing
    at all ("run condition not met"). Without `typed` every value arrives as text and null as "",
    and without `escape` a quote in a value breaks the JSON. Clay does both.

    `well_set` sets `retry` and `timeout_s` to what `stream-app clay-setup` advises. Clay does not
    document the default of `timeout_s`, nor whether a call that took so long is repeated as
    ETIMEDOUT (`repeats_timeouts`).
    """

    enabled: bool = True
    url: str = "{{callback_url}}"
    headers: dict[str, str] = msgspec.field(
        default_factory=lambda: {"x-callback-token": "{{callback_token}}"},
    )
    body: dict[str, Any] = {}
    run_if: Literal["always", "found"] = "found"
    typed: bool = False
    escape: bool = True
    retry: Retry = Retry()
    timeout_s: Annotated[float, msgspec.Meta(gt=0, lt=100)] = 30.0
    repeats_timeouts: bool = True
    well_set: bool = False

    @property
    def retry_in_force(self) -> Retry:
        return WELL_SET if self.well_set else self.retry

    @property
    def waits_s(self) -> float:
        """How long a call waits for its answer."""
        return WELL_SET_TIMEOUT_S if self.well_set else self.timeout_s


DEFAULT_COLUMNS = (
    PaidColumn(
        name="work_email",
        credits=2,
        miss_share=0.1,
        error_share=0.01,
        values=("{{first_name}}.{{last_name}}@{{domain}}",),
    ),
    PaidColumn(
        name="job_title",
        credits=1,
        miss_share=0.1,
        values=("Head of Sales", "CTO", "Buyer", "Founder"),
    ),
    PaidColumn(name="employees", credits=1, miss_share=0.1, values=(4, 38, 260, 1900)),
    PaidColumn(
        name="phone",
        credits=2,
        miss_share=0.4,
        error_share=0.01,
        values=("+1 202 555 0114", "+1 202 555 0187"),
    ),
)


class ClayTable(ScriptPart, frozen=True, kw_only=True):
    """The table behind a webhook. `[table]` in the script is the default for all webhooks.

    `dedupe_on` names the auto-dedupe column. It is unknown whether Clay deduplicates before or
    after the paid columns, so `dedupe_runs` sets it. The default is the more expensive way.

    `active` is that of a workflow: it is published, and not paused.
    """

    columns: tuple[PaidColumn, ...] = DEFAULT_COLUMNS
    latency: RowLatency = RowLatency()
    callback: HttpColumn = HttpColumn()
    auto_run: bool = True
    dedupe_on: str | None = None
    dedupe_runs: Literal["before", "after"] = "after"
    token: str | None = None
    active: bool = True


class ScriptWebhook(ClayTable, frozen=True, kw_only=True):
    """One webhook: a table and the workspace that pays for it.

    The workspace is the slug's part before `--` unless it is named.
    """

    workspace: str | None = None


class Routine(ClayTable, frozen=True, kw_only=True):
    """A saved function or workflow that the Public API runs. `callback` is not used.

    Attributes:
        workspace: Who pays for it.
        requires: Inputs without which a run is refused.
        open_to_api: Whether its author has switched the API on.
        cost_output: An output with the credits that the item cost, if its author made one.
    """

    workspace: str = "default"
    requires: tuple[str, ...] = ()
    open_to_api: bool = True
    cost_output: str | None = None


class CompletionWebhook(ScriptPart, frozen=True, kw_only=True):
    """Who is told that a run has finished: a URL, and the secret that signs what is sent."""

    url: str
    secret: str


class ClayPlan(ScriptPart, frozen=True, kw_only=True):
    """The budget of a workspace. Credits can be topped up; Actions return only with a new month."""

    credits: Count = 6_000
    actions: Count = 15_000


class ClayLimits(ScriptPart, frozen=True, kw_only=True):
    """Clay's limits.

    `rate_per_s = 0` switches the rate limit off, `outward_per_s = 0` that of the HTTP columns, and
    `lifetime = 0` the lifetime limit.

    `rate_per_s` and `burst` count requests per workspace, `lifetime` accepted submissions per
    webhook. `payload_bytes` is the strict reading of 100 KB.

    Not documented, and therefore settings: whether Clay takes a row with 200 or 202
    (`accepted_status`: both are documented, but not which comes when), what it answers for a
    webhook that does not exist (`unknown_status`), whether refused submissions count for the
    lifetime (`refused_count`), and what becomes of a cell over `cell_bytes`, which is truncated
    here.

    `api_per_minute` counts all requests of a workspace to the Public API, and 0 switches it off.
    The results of a run are gone `results_kept_s` after it finished. Not documented: `api_burst`,
    what a routine answers whose author has not switched the API on (`closed_status`), and what
    becomes of a run without credits (`no_credits`: its items fail, it never finishes, or it is
    refused with 402).
    """

    rate_per_s: Seconds = 10.0
    burst: Annotated[int, msgspec.Meta(ge=1)] = 20
    outward_per_s: Seconds = 100.0
    payload_bytes: Annotated[int, msgspec.Meta(ge=1, le=16_000_000)] = 100_000
    cell_bytes: Annotated[int, msgspec.Meta(ge=1)] = 8_192
    lifetime: Count = 50_000
    refused_count: bool = False
    accepted_status: Literal[200, 202] = 200
    unknown_status: HttpStatus = 404
    retry_after: RetryAfter = "seconds"
    retry_after_s: Count = 1
    api_per_minute: Seconds = 300.0
    api_burst: Annotated[int, msgspec.Meta(ge=1)] = 20
    results_kept_s: Seconds = 86_400.0
    closed_status: HttpStatus = 403
    no_credits: Literal["failed", "hung", "refused"] = "failed"


class Fault(ScriptPart, frozen=True, kw_only=True):
    """One fault on the timeline: from `at_s` for `for_s`, for a `share` of requests.

    Without `for_s` it lasts forever. `webhook` may name a routine, too. `endpoint` keeps a fault of
    requests to one kind of them. `FAULTS` lists the parameters of each kind with their
    defaults.
    """

    kind: str
    at_s: Seconds = 0.0
    for_s: Seconds | None = None
    share: Fraction = 1.0
    workspace: str | None = None
    webhook: str | None = None
    endpoint: EndpointName | None = None
    status: HttpStatus | None = None
    accepted: bool | None = None
    delay_s: Seconds | None = None
    retry_after: RetryAfter | None = None
    retry_after_s: Count | None = None
    location: str | None = None
    size_bytes: Count | None = None
    headers: dict[str, str] | None = None
    column: str | None = None

    def __post_init__(self) -> None:
        for name, default in FAULTS.get(self.kind, {}).items():
            if getattr(self, name) is None:
                msgspec.structs.force_setattr(self, name, default)


# Faults that answer instead of Clay: the row is not accepted.
REFUSING: dict[str, dict[str, Any]] = {
    "status_before": {"status": 500},
    "rate_limited": {"status": 429, "retry_after": "seconds", "retry_after_s": 1},
    "unauthorized": {"status": 401},
    "forbidden": {"status": 403},
    "gone": {"status": 404},
    "payment": {"status": 402},
    "redirect": {"status": 302, "location": "https://clay.invalid/elsewhere"},
    "reset_before_accept": {},
}
# Faults of the response: Clay takes the row (unless `accepted = false`), and the sender cannot know
# it; or it takes none (`table_full`: the table has the most rows of its plan), and says it did.
OBSCURING: dict[str, dict[str, Any]] = {
    "status_after": {"status": 500},
    "hang_after_read": {"accepted": True},
    "reset_after_read": {},
    "slow": {"delay_s": 5.0},
    "table_full": {},
    "garbage": {"accepted": True},
    "huge_answer": {"size_bytes": 50_000_000},
}
CALLBACK_FAULTS: dict[str, dict[str, Any]] = {
    "callbacks_lost": {},
    "callbacks_doubled": {"delay_s": 0.005},
    "callbacks_late": {"delay_s": 3600.0},
    "callbacks_reordered": {"delay_s": 1.0},
    "callbacks_broken_json": {},
    "callbacks_missing_keys": {},
    "callbacks_extra_keys": {},
    "callbacks_wrong_lead": {},
    "callbacks_old_secret": {"headers": {}},
}
# Faults of a paid column: its provider finds nothing, and Clay charges for that as for any miss.
COLUMN_FAULTS: dict[str, dict[str, Any]] = {"provider_fails": {"column": "work_email"}}
# Faults of a routine's run, of its items, and of what is told when it has finished.
ROUTINE: dict[str, dict[str, Any]] = {
    "run_answer_cut": {},
    "run_unknown_at_first": {"delay_s": 5.0},
    "item_hung": {},
    "item_failed": {},
    "item_status_unknown": {},
    "result_empty": {},
    "result_nested": {},
    "result_huge": {"size_bytes": 2_000_000},
    "notification_lost": {},
    "notification_doubled": {},
    "notification_late": {"delay_s": 3600.0},
    "notification_test": {},
}
LISTENER: dict[str, dict[str, Any]] = {"refuse": {}}
FAULTS: dict[str, dict[str, Any]] = (
    REFUSING | OBSCURING | CALLBACK_FAULTS | COLUMN_FAULTS | ROUTINE | LISTENER
)


class Script(ScriptPart, frozen=True, kw_only=True):
    """A whole script.

    `kept_rows` rows per webhook can be run again. `callback_concurrency` is for the whole
    simulator. `api_keys` has the key of the Public API by workspace.
    """

    seed: int = 1
    auto_create: bool = True
    lead_id_field: str = "lead_id"
    delivery_id_field: str = "delivery_id"
    callback_concurrency: Annotated[int, msgspec.Meta(ge=1)] = 200
    kept_rows: Annotated[int, msgspec.Meta(ge=1)] = 50_000
    limits: ClayLimits = ClayLimits()
    plan: ClayPlan = ClayPlan()
    table: ClayTable = ClayTable()
    workspaces: dict[str, ClayPlan] = {}
    webhooks: dict[str, ScriptWebhook] = {}
    routines: dict[str, Routine] = {}
    completion_webhooks: dict[str, CompletionWebhook] = {}
    api_keys: dict[str, str] = {}
    fault: tuple[Fault, ...] = ()


def workspace_of(slug: str) -> str:
    """The workspace of a webhook without one: `acme--crm` belongs to `acme`, `crm` to `default`."""
    before, separator, _ = slug.partition("--")
    return before if separator and before else "default"


S = TypeVar("S", bound=ScriptPart)


class ScriptError(Exception):
    """An invalid script. `problems` has one line each: where, what, and what would be right."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def load_script(path: Path) -> Script:
    """Read a script file (TOML, UTF-8). Raises ScriptError, also if the file cannot be read."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ScriptError([f"cannot be read: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise ScriptError(["cannot be read: it is not UTF-8"]) from error
    return parse_script(text)


def parse_script(text: str) -> Script:
    """Read a script's TOML text. Raises ScriptError with all problems."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ScriptError([f"not TOML: {error}"]) from error
    table = raw.get("table")
    if isinstance(table, dict) and isinstance(raw.get("webhooks"), dict):
        raw["webhooks"] = {slug: over(table, mine) for slug, mine in raw["webhooks"].items()}
    if isinstance(table, dict) and isinstance(raw.get("routines"), dict):
        raw["routines"] = {name: over(table, mine) for name, mine in raw["routines"].items()}
    return checked(Script, raw)


def over(table: dict[str, Any], mine: Any) -> Any:
    """Merge a webhook's settings over the default table's; `latency` and `callback` key by key."""
    if not isinstance(mine, dict):
        return mine
    merged = table | mine
    for part in ("latency", "callback"):
        if isinstance(table.get(part), dict) and isinstance(mine.get(part), dict):
            merged[part] = table[part] | mine[part]
    return merged


def checked(cls: type[S], raw: object, where: str = "") -> S:
    """Convert `raw` to a `cls`.

    Raises ScriptError with all problems; `where` prefixes their places.
    """
    problems: list[str] = []
    result = _struct(cls, raw, where, problems)
    if result is None or problems:
        raise ScriptError(problems)
    return result


def _struct(cls: type[S], raw: object, where: str, problems: list[str]) -> S | None:
    if not isinstance(raw, dict):
        problems.append(
            f"{where or 'the script'}: must be a table of settings, not {type(raw).__name__}",
        )
        return None
    before = len(problems)
    types = get_type_hints(cls, include_extras=True)
    prefix = f"{where}." if where else ""
    problems.extend(
        f"{prefix}{key}: unknown; known here: {', '.join(sorted(types))}"
        for key in sorted(raw.keys() - types.keys())
    )
    values: dict[str, Any] = {}
    for field in msgspec.structs.fields(cls):
        if field.name in raw:
            values[field.name] = _value(
                types[field.name],
                raw[field.name],
                prefix + field.name,
                problems,
            )
        elif field.required:
            problems.append(f"{prefix}{field.name}: missing")
    if len(problems) > before:
        return None
    built = cls(**values)
    problems.extend(f"{prefix}{problem}" for problem in _contradictions(built, raw))
    return built


def _value(kind: Any, raw: object, where: str, problems: list[str]) -> Any:
    origin = get_origin(kind)
    args = get_args(kind)
    if _is_settings(kind):
        return _struct(kind, raw, where, problems)
    if origin is tuple and _is_settings(args[0]) and isinstance(raw, list):
        return tuple(
            _struct(args[0], item, f"{where}[{n}]", problems) for n, item in enumerate(raw)
        )
    if origin is dict and _is_settings(args[1]) and isinstance(raw, dict):
        return {
            key: _struct(args[1], item, f"{where}.{key}", problems) for key, item in raw.items()
        }
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        problems.append(f"{where}: {error}")
        return None


def _is_settings(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, ScriptPart)


def _contradictions(built: ScriptPart, raw: dict[str, Any]) -> Iterator[str]:
    if isinstance(built, RowLatency) and built.p95_s < built.median_s:
        yield f"p95_s: {built.p95_s} is under median_s ({built.median_s})"
    if isinstance(built, ClayTable):
        names = [column.name for column in built.columns]
        yield from (
            f"columns: {name!r} is there twice" for name in set(names) if names.count(name) > 1
        )
    if isinstance(built, Fault):
        yield from _fault_contradictions(built, raw)


def _fault_contradictions(fault: Fault, raw: dict[str, Any]) -> Iterator[str]:
    if fault.kind not in FAULTS:
        yield f"kind: {fault.kind!r} is unknown; known are {', '.join(sorted(FAULTS))}"
        return
    parameters = set(FAULTS[fault.kind])
    places = set() if fault.kind in LISTENER else {"share", "workspace", "webhook"}
    if fault.kind in REFUSING or fault.kind in OBSCURING:
        places.add("endpoint")
    for key in sorted(raw.keys() - parameters - places - {"kind", "at_s", "for_s"}):
        takes = ", ".join(sorted(parameters | places)) or "no parameters"
        yield f"{key}: does not belong to {fault.kind!r}, which takes {takes}"
    if fault.kind == "redirect" and fault.status is not None and fault.status >= 400:
        yield f"status: a redirect has 300 to 399, not {fault.status}"
