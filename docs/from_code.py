"""The pages of docs/reference that list what the code has: settings, metrics, failures."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from inspect import isfunction
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Final, Literal, cast, get_args, get_origin, get_type_hints

import msgspec

from stream_app.clay.client import UNCERTAIN_TEXT, UNSENT_TEXT
from stream_app.cli.base import EXIT_CODE_OF, EXIT_CODES, NO
from stream_app.config import Settings
from stream_app.config.load import field_of, keys_of
from stream_app.domain.delivery.envelope import HEADERS, Envelope
from stream_app.domain.delivery.state_machine import NEXT
from stream_app.domain.delivery.suppression import TEXT as SUPPRESSED
from stream_app.domain.delivery.without_row import rejected_copy
from stream_app.domain.lane.holds import REASONS
from stream_app.domain.lead.read import Unreadable
from stream_app.domain.model import errors as error_classes
from stream_app.domain.model.messages import Status
from stream_app.domain.model.outcome import classify
from stream_app.domain.model.ranges import Range
from stream_app.domain.model.records import ConsumedRecord

CODE: Final = Path(__file__).parents[1] / "stream_app"
SITUATIONS: Final = Path(__file__).with_name("situations.toml")
ATTRIBUTE: Final = r"^    (\w+): (.+(?:\n        .+)*)"
"""One of the attributes in a docstring: its name and its meaning."""
_NAMES: Final = {"workspaces": ".<name>", "destinations": ".<alias>"}
_VARIES: Final = "{value}"
_TYPES: Final[dict[Any, str]] = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "`true`, `false`",
}


_SETTINGS: Final = """\
# Settings

Every process and command reads one TOML file: the one that `--config` names, or else the one that
`STREAM_APP_CONFIG` names, or else `stream_app.toml` in the current folder. Copy the
[example](../../stream_app/config/stream_app.example.toml), which has the keys that you need on the
first day, and leave the others as they are. This page has every key with its default, and the
situation in which it makes sense to change it. All errors of a file are reported together, one on
a line, with exit code 2.

- Units are in the names: `_s` is seconds, `_days` is days, `_bytes` is bytes.
- Secrets are not in the file, so that you can keep it in a repository. A key that ends in `_env`
  names an environment variable, or a file of that name in `secrets_dir`.
- "Not set" means that the key has no value until you give one.
- Changes of workspaces and destinations take effect with `stream-app lanes reload`, other changes
  at a restart.
- `[workspace_defaults]` has the keys of `[workspaces.<name>]`, except `partition` and
  `default_destination`. They apply to each workspace whose own table does not set them.
"""


def settings() -> str:
    """Return the page of the keys of the configuration.

    Raises:
        KeyError: A key has no situation in situations.toml, or a situation has no key.
    """
    situations = _flat(tomllib.loads(SITUATIONS.read_text(encoding="utf-8")))
    page = "\n".join([_SETTINGS, *_tables(Settings, "", situations)])
    if situations:
        raise KeyError(f"docs/{SITUATIONS.name}: no such keys: {', '.join(situations)}")
    return page


def _flat(table: Mapping[str, Any], place: str = "") -> dict[str, str]:
    """Return a table with those in it as one: place of each key -> its value."""
    flat: dict[str, str] = {}
    for key, value in table.items():
        flat |= (
            _flat(value, f"{place}{key}.") if isinstance(value, dict) else {f"{place}{key}": value}
        )
    return flat


def _tables(kind: type[msgspec.Struct], table: str, situations: dict[str, str]) -> Iterator[str]:
    """Yield a table of the configuration, and those in it.

    Takes their situations out of `situations`.
    """
    meanings = _attributes(kind)
    hints = get_type_hints(kind, include_extras=True)
    defaults = {field.name: field for field in msgspec.structs.fields(kind)}
    rows = []
    inner = []
    for key in keys_of(kind):
        field = field_of(kind, key)
        place = f"{table}.{key}".lstrip(".")
        hint = hints[field]
        nested = get_args(hint)[1] if get_origin(hint) is dict else hint
        if isinstance(nested, type) and issubclass(nested, msgspec.Struct):
            inner.append((nested, place + _NAMES[key] if nested is not hint else place))
            continue
        if place not in situations:
            raise KeyError(f"docs/{SITUATIONS.name}: say in which situation one changes {place}")
        texts = (
            _default(defaults[field], place),
            cell(_kind(hint)),
            cell(meanings[field]),
            cell(situations.pop(place)),
        )
        rows.append(f"| `{key}` | {' | '.join(texts)} |")
    if rows:
        heading = (
            f"{'#' * (2 + (table.count('.') > table.count('.<')))} `[{table}]`"
            if table
            else "## Top level"
        )
        described = _described(kind) if table else ""
        yield f"{heading}\n\n{described}\n" if described else f"{heading}\n"
        yield (
            "| Key | Default | Type | Meaning | When to change it |\n|---|---|---|---|---|\n"
            + "\n".join(rows)
            + "\n"
        )
    for nested, place in inner:
        if place != "workspace_defaults":
            yield from _tables(nested, place, situations)


def _default(field: msgspec.structs.FieldInfo, place: str) -> str:
    if field.required or place == "destinations.<alias>.webhooks_env":  # a rule requires this one
        return "required"
    value = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    if value is None:
        return "not set"
    return f"`{value:g}`" if isinstance(value, float) else f"`{json.dumps(value)}`"


def _kind(hint: Any) -> str:
    """Return a type as a user of TOML calls it, with its range."""
    given = get_args(hint)
    match get_origin(hint):
        case None:
            return _TYPES[hint]
        case origin if origin is Annotated:
            ranges = [
                f", {bound.low:.15g} to {bound.high:.15g}"
                for bound in given[1:]
                if isinstance(bound, Range)
            ]
            return _kind(given[0]) + "".join(ranges)
        case origin if origin is Literal:
            return ", ".join(f"`{word}`" for word in given)
        case origin if origin is tuple:
            return f"list of {_TYPES.get(given[0]) or _kind(given[0])}"
        case origin if origin is dict:
            return f"table of {_TYPES[given[1]]}"
    return " or ".join(_kind(part) for part in given if part is not type(None))


def _described(kind: type) -> str:
    return inspect.cleandoc(kind.__doc__ or "").partition("\n\nAttributes:\n")[0]


def _attributes(kind: type) -> dict[str, str]:
    """Return the meanings of a class's fields, by the docstrings of the class and its bases."""
    descriptions: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        attributes = inspect.cleandoc(base.__dict__.get("__doc__") or "").partition(
            "\n\nAttributes:\n",
        )[2]
        descriptions |= {
            name: " ".join(text.split()) for name, text in re.findall(ATTRIBUTE, attributes, re.M)
        }
    return descriptions


def metrics() -> str:
    """Return the page of the metrics."""
    rows = sorted(row for path in CODE.rglob("*.py") for row in _metrics_of(path))
    return (
        "# List of metrics\n\nThis page lists every metric with its type and help text, as "
        "the code defines them. "
        "[Metrics](../metrics.md) groups them by process.\n\n"
        "| Metric | Labels | Type | Help text |\n|---|---|---|---|\n" + "\n".join(rows)
    )


def _metrics_of(path: Path) -> Iterator[str]:
    """Yield the row of each metric that a module makes."""
    for call in _calls(ast.parse(path.read_text(encoding="utf-8"))):
        texts = [str(arg.value) for arg in call.args if isinstance(arg, ast.Constant)]
        if call.func.id == "gauge":  # of a lane
            kind = "gauge"
            name = f"stream_app_lane_{texts[0]}"
            labels = ("workspace", *texts[2:])
        elif (
            call.func.id
            in ("Counter", "counter", "Gauge", "Histogram", "histogram", "GaugeMetricFamily")
            and texts
        ):
            given = [*call.args, *(keyword.value for keyword in call.keywords)]
            kind = call.func.id.removesuffix("MetricFamily").lower()
            name = f"{texts[0]}{'_total' if kind == 'counter' else ''}"
            labels = next(
                (ast.literal_eval(arg) for arg in given if isinstance(arg, ast.Tuple)),
                (),
            )
        else:
            continue
        shown = ", ".join(f"`{label}`" for label in labels)
        yield f"| `{name}` | {shown} | {kind} | {cell(texts[1])} |"


class _Call(ast.Call):
    func: ast.Name


def _calls(tree: ast.AST) -> Iterator[_Call]:
    """Yield the calls of plain names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield cast("_Call", node)


def failures() -> str:
    """Return the page of errors, exit codes, statuses and reasons."""
    codes = re.findall(r"^ +(\d+) +(.+)$", EXIT_CODES, re.M)
    errors = [value for value in vars(error_classes).values() if isinstance(value, type)]
    statuses = [(status, sorted(NEXT.get(status, ()))) for status in get_args(Status)]
    parts = [
        "# Errors, statuses and reasons\n\nThis page has the codes that the program writes, "
        "as the code defines them. "
        "[Failures](../failures.md) says what they mean for you, and [dead "
        "letters](../dead-letters.md) what to do.\n"
        "`{name}` stands for a part of a text that varies.\n",
        _table("Exit codes", "", "Code | Meaning", codes),
        _table(
            "Errors",
            "The exit code is that of a command which ends with the error.",
            "Error | Exit code | Meaning",
            [
                (
                    f"`{error.__name__}`",
                    str(EXIT_CODE_OF.get(error, NO)),
                    " ".join(_described(error).split()),
                )
                for error in errors
            ],
        ),
        _table(
            "Statuses of a lead",
            "Events on `leads.status` have them. `stream-app status` shows them.",
            "Status | What may follow",
            [
                (f"`{status}`", ", ".join(f"`{after}`" for after in next_ones) or "final")
                for status, next_ones in statuses
            ],
        ),
        _table(
            "Responses of Clay",
            "The table says what a response of Clay to a POST means. The reason is "
            "`http_<status>`. A 503 is `Uncertain`\n"
            "if the destination says `unavailable_is_refused = false`.",
            "Response | Outcome | Text",
            _responses(),
        ),
        _table(
            "POSTs without a response",
            "`Refused` may be sent again. `Uncertain` may have reached Clay, so it is not "
            "sent again by itself.",
            "Reason | Outcome | Text",
            [(f"`{reason}`", "Refused", text) for reason, text in UNSENT_TEXT.items()]
            + [(f"`{reason}`", "Uncertain", text) for reason, text in UNCERTAIN_TEXT.items()],
        ),
        _table(
            "Leads that are rejected",
            "Each of them becomes a dead letter. One that is `poison` is not replayed "
            "automatically, because its\n"
            "bytes would be rejected again. One of `policy` waits for a person, because the "
            "configuration refuses it.",
            "Reason | Disposition | Text",
            [
                (code, _disposition(code.strip("`")), text)
                for code, text in _reasons("Unreadable", "domain")
            ],
        ),
        _table(
            "Leads that wait",
            "These reasons say why a lead was not sent yet. The reason of a suspended lane "
            "is that of the response\n"
            "which suspended it.",
            "Reason | Text",
            sorted({*_reasons("Held", "domain partition"), *_reasons("held", "domain")}),
        ),
        _table(
            "What holds a lane",
            "`stream-app explain`, the board, metrics and messages have these codes. A "
            "message is sent if a\n"
            "person must act. `http_*` is every status with which Clay refuses all leads of "
            "a destination.",
            "Code | What lifts it | Message to people",
            [
                (f"`{code}`", reason.lifts.format("acme"), reason.alarm or "none")
                for code, reason in REASONS.items()
                if reason.lifts
            ],
        ),
        _table(
            "Other reasons",
            "Events and dead letters have these reasons, too. A dead letter of a lead that "
            "failed has the disposition\n"
            "`failed`.",
            "Reason | Text",
            [
                *((f"`{code}`", text) for code, text in SUPPRESSED.items()),
                *_reasons("Reason", "domain partition"),
            ],
        ),
        _table(
            "Callbacks that the gateway refuses for their body",
            "[Callbacks](../callbacks.md#responses) has all responses.",
            "Code | Text",
            _reasons("BadBody", "domain"),
        ),
    ]
    return "\n".join(parts)


def _table(heading: str, text: str, columns: str, rows: Iterable[Sequence[str]]) -> str:
    rule = re.sub(r"[^|]+", "---", f"|{columns}|")
    lines = [f"## {heading}\n", *([f"{text}\n"] if text else []), f"| {columns} |", rule]
    return "\n".join([*lines, *(f"| {' | '.join(map(cell, row))} |" for row in rows)]) + "\n"


def _responses() -> Iterator[tuple[str, str, str]]:
    """Yield what each status means. One stands for others that mean the same."""
    for status in (200, 302, 400, 401, 402, 403, 404, 408, 409, 413, 422, 429, 500, 503):
        outcome = classify(status, None, "", 0, unavailable_is_refused=True)
        shown = {200: "2xx", 302: "3xx", 409: "other 4xx", 500: "other 5xx"}.get(
            status,
            str(status),
        )
        text = getattr(outcome, "text", "").removeprefix(f"HTTP {status}: ")
        yield (
            shown,
            type(outcome).__name__,
            text or _described(type(outcome)).partition(": ")[2].partition(".")[0],
        )


def _disposition(reason: str) -> str:
    """Return the disposition that the worker gives a dead letter of this reason."""
    consumed = ConsumedRecord("leads", 0, 0, None, None)
    bad = Unreadable(reason, "")
    envelope = Envelope(origin="leads/0/0")
    dead_letter = rejected_copy(Settings().plan, consumed, envelope, bad, "", "", 0)
    return f"`{dict(dead_letter.headers)[HEADERS['disposition']].decode()}`"


def _reasons(name: str, folders: str) -> list[tuple[str, str]]:
    """Return the codes of a class of reasons, each with its texts.

    `{name}` stands for a part that varies.
    """
    reasons: set[tuple[str, str]] = set()
    for path in (path for folder in folders.split() for path in (CODE / folder).rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        if f"{name}(" not in source:
            continue
        module = importlib.import_module(
            ".".join(path.relative_to(CODE.parent).with_suffix("").parts),
        )
        functions = [
            node
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        ]
        constants = [
            node for node in ast.parse(source).body if isinstance(node, ast.Assign | ast.AnnAssign)
        ]
        for scope in (*functions, *constants):
            for call in _calls(scope):
                if call.func.id == name and len(call.args) > 1:
                    codes = _texts(call.args[0], scope, module)
                    texts = _texts(call.args[1], scope, module)
                    reasons |= {
                        (f"`{code}`", text)
                        for code in codes
                        for text in texts
                        if _is_text(code, text)
                    }
    return sorted(reasons)


def _is_text(code: str, text: str) -> bool:
    """True unless one of them is empty, or passes on what another function made."""
    return bool(code and text) and not any(re.fullmatch(r"\{\w+\}", part) for part in (code, text))


def _texts(node: ast.expr, scope: ast.AST, module: ModuleType) -> list[str]:
    """Return what a text can be. `{name}` stands for a value that is known only at run time."""

    def within(*parts: ast.expr) -> list[str]:
        return [
            "".join(words) for words in product(*(_texts(part, scope, module) for part in parts))
        ]

    match node:
        case ast.Constant(value=str() | int() as given):
            return [str(given)]
        case ast.JoinedStr():
            return within(*node.values)
        case ast.FormattedValue():
            return within(node.value)
        case ast.BinOp(op=ast.Add()):
            return within(node.left, node.right)
        case ast.IfExp(body=ast.Constant(value=one), orelse=ast.Constant(value=other)) if (
            one and other
        ):
            return [f"{one!s} or {other!s}"]
        case ast.IfExp():
            return [
                *within(node.body),
                *(within(node.orelse) if isinstance(node.orelse, ast.Constant) else []),
            ]
        case ast.Name() if isinstance(value := getattr(module, node.id, None), str | int):
            return [str(value)]
        case ast.Name():
            texts = [text for assigned in _assigned(node, scope) for text in within(assigned)]
            return texts if texts and _VARIES not in texts else [f"{{{node.id}}}"]
        case ast.Call(func=ast.Name(id="len")):
            return ["{number}"]
        case ast.Call(func=ast.Name(id="count"), args=[_, noun]):
            return [f"{{number}} {word}s" for word in within(noun)]
        case ast.Call(func=ast.Name(id="count"), args=[_, _, nouns]):
            return [f"{{number}} {word}" for word in within(nouns)]
        case ast.Call(func=ast.Name(id="scrub"), args=[first]):
            return within(first)
        case ast.Call(func=ast.Name(id=called)) if isfunction(
            function := getattr(module, called, None),
        ):
            body = ast.parse(inspect.getsource(function))
            home = importlib.import_module(function.__module__)
            returned = [
                inner.value
                for inner in ast.walk(body)
                if isinstance(inner, ast.Return) and inner.value
            ]
            return [text for expression in returned for text in _texts(expression, body, home)]
        # A table of words of another module: each of its words.
        case ast.Subscript(value=ast.Attribute(value=ast.Name(id=owner), attr=table)) if isinstance(
            words := getattr(getattr(module, owner, None), table, None),
            dict,
        ):
            return [str(word) for word in words.values()]
        case ast.Attribute():
            return [f"{{{node.attr}}}"]
        case (
            ast.Call(func=ast.Name(), args=[first, *_])
            | ast.Subscript(value=first)
            | ast.Starred(value=first)
        ):
            return within(first)
    return [_VARIES]


def _assigned(name: ast.Name, scope: ast.AST) -> list[ast.expr]:
    """Return the values that a function gives a name before the place where it is used."""
    values: list[ast.expr] = []
    for node in ast.walk(scope):
        if isinstance(node, ast.Assign) and node.lineno < name.lineno:
            target = node.targets[0]
            pairs = (
                zip(target.elts, node.value.elts, strict=True)
                if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple)
                else [(target, node.value)]
            )
            values += [value for left, value in pairs if ast.unparse(left) == name.id]
        # text = f"{text}; ...": of the first one
        elif isinstance(node, ast.Assign) and name in ast.walk(node):
            return values[:1] if name.id in ast.unparse(node.targets[0]) else values
    return values


def cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
