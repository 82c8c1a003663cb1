"""The public Python API: its names, its cheap import, and what it makes of its arguments."""

import asyncio
import inspect
import re
import subprocess
import sys
import tomllib
from collections.abc import AsyncGenerator, Callable
from datetime import datetime
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import msgspec
import pytest

import stream_app
import stream_app.client.publish.leads  # a submodule must not take the place of a function
from stream_app import (
    BoardUnavailable,
    FoundImport,
    ImportUnderWay,
    Result,
    Settings,
    SettingsError,
    StreamAppError,
    api,
    find_lead,
    find_lead_sync,
    follow_status,
    follow_status_sync,
    load_settings,
    publish,
    publish_sync,
    read_books,
    read_books_sync,
    read_results,
    read_results_sync,
    wait_for_import,
    wait_for_import_sync,
)
from stream_app.client.publish.leads import PublishOptions
from stream_app.client.results.answers import ImportsAnswer
from stream_app.client.results.export import ResultFilter, ResultStore, export, results_of
from stream_app.client.results.lookup import LeadSearch
from tests.repository.deployed import kafka_properties, published
from tests.support.pace import BUSY

ROOT = Path(__file__).parents[3]
CONFIG = """
[kafka]
bootstrap = "127.0.0.1:1"
[board]
token_env = "BOARD_TOKEN"
[workspaces.acme]
[destinations.people]
workspace = "acme"
webhooks_env = ["NOT_SET_IN_THIS_PROCESS"]
callbacks = false
"""
TOKEN = "q8Zt3vL0xWnE5rYbK2mJ7hUcD4sGfA9p"


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "own.toml"
    path.write_text(CONFIG)
    for name in ("STREAM_APP_CONFIG", "BOARD_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    return path


def test_every_public_name_is_there_and_documented() -> None:
    assert api.__all__ == sorted(api.__all__)
    assert set(api.__all__) <= set(dir(stream_app))
    everything: dict[str, object] = {}
    exec("from stream_app import *", everything)
    assert everything.keys() - {"__builtins__"} == set(api.__all__)
    for name in api.__all__:
        assert inspect.getdoc(getattr(stream_app, name)), name
        if name.islower():
            assert inspect.isfunction(getattr(stream_app, name)), name


def test_the_page_names_every_function() -> None:
    page = (ROOT / "docs" / "python-api.md").read_text(encoding="utf-8")
    assert [name for name in api.__all__ if name not in page] == []


def test_importing_the_package_imports_nothing_heavy_and_a_function_not_faust() -> None:
    heavy = "('aiokafka', 'aiohttp', 'faust', 'httpx', 'msgspec', 'rich', 'asyncio')"
    code = (
        f"import sys, stream_app; print([name for name in {heavy} if name in sys.modules])\n"
        "from stream_app import publish; print('faust' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=30 * BUSY,
        check=True,
    )
    assert done.stdout.splitlines() == ["[]", "False"]


@pytest.mark.parametrize(
    ("asynchronous", "synchronous"),
    [
        (publish, publish_sync),
        (follow_status, follow_status_sync),
        (find_lead, find_lead_sync),
        (read_results, read_results_sync),
        (read_books, read_books_sync),
        (wait_for_import, wait_for_import_sync),
    ],
)
def test_both_forms_of_a_function_take_the_same_arguments(
    asynchronous: Callable[..., Any],
    synchronous: Callable[..., Any],
) -> None:
    assert inspect.signature(asynchronous).parameters == inspect.signature(synchronous).parameters
    assert synchronous.__name__ == f"{asynchronous.__name__}_sync"
    annotations = (
        inspect.signature(asynchronous, eval_str=True),
        inspect.signature(synchronous, eval_str=True),
    )
    assert (
        str(annotations[0]).replace("Async", "").partition("->")[0]
        == str(annotations[1]).partition("->")[0]
    )
    assert not re.search(
        r"\basync\b|\bawait\b|\b(publish|follow_status)\(",
        synchronous.__doc__ or "",
    )


async def test_publish_passes_its_arguments_on(
    config: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    passed: list[Any] = []

    async def fake(
        leads: Any,
        settings: Settings,
        options: PublishOptions,
        *,
        on_refused: Any,
    ) -> None:
        passed.extend((list(leads), settings, options))

    monkeypatch.setattr("stream_app.client.publish.leads.publish", fake)
    settings = load_settings(config)
    leads = [{"email": "ada@example.com"}]
    await publish(
        leads,
        settings,
        workspace="acme",
        destination="people",
        import_id="b",
        bulk=True,
        force=True,
    )
    assert passed == [leads, settings, PublishOptions("acme", "people", "b", True, True)]
    await publish(leads, settings)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d-[a-z]{6}", passed[-1].import_id), (
        "a new name, as the command makes one"
    )
    await publish(leads, settings, import_id="")
    assert passed[-1].import_id is None


async def test_publish_returns_the_import_and_the_ids_of_its_leads(
    config: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def sent(batch: Any, *_: Any, **__: Any) -> int:
        return len(list(batch))

    monkeypatch.setattr("stream_app.client.publish.leads.kafka_ready", AsyncMock())
    monkeypatch.setattr("stream_app.client.publish.leads.send_batch", sent)
    leads = [
        {"email": "ada@example.com", "lead_id": "crm-17"},
        {"notes": "no lead"},
        {"email": "bo@example.com"},
    ]
    summary = await publish(leads, load_settings(config), import_id="march")
    assert summary.rows == 3
    assert summary.published == 2
    assert summary.refused == 1
    assert summary.import_id == "march"
    crm, derived = summary.lead_ids
    assert crm == "crm-17"
    assert derived.startswith("p-")


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (
            lambda config: follow_status_sync(config, idle_timeout_s=0).__enter__(),
            "idle_timeout_s has to be positive",
        ),
        (lambda config: follow_status_sync(config, lead_id=" ").__enter__(), "lead_id is empty"),
        (
            lambda config: follow_status_sync(config, workspace="beta").__enter__(),
            "there is no workspace beta",
        ),
        (
            lambda config: next(read_results_sync(config, since=datetime(2026, 11, 24))),
            "since has no time zone",
        ),
        (
            lambda config: next(read_results_sync(config, destination="crm")),
            "there is no destination crm",
        ),
        (lambda config: read_books_sync(config, limit=-1), "limit cannot be negative"),
    ],
)
def test_wrong_arguments_are_refused(call: Callable[..., Any], says: str, config: Path) -> None:
    with pytest.raises((ValueError, SettingsError), match=says):
        call(config)


async def test_the_synchronous_form_says_what_to_use_in_an_event_loop(config: Path) -> None:
    for name, call in (
        ("publish", lambda: publish_sync([], config)),
        ("read_books", lambda: read_books_sync(config)),
        ("read_results", lambda: next(read_results_sync(config))),
        ("follow_status", lambda: follow_status_sync(config).__enter__()),
    ):
        with pytest.raises(
            RuntimeError,
            match=rf"{name}_sync\(\) cannot be called .*: use {name}\(\)",
        ):
            call()


def test_find_lead_needs_the_token_of_the_api_only(
    config: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[str | None, str, str | None]] = []

    def fake(settings: Settings, who: str, workspace: str | None) -> LeadSearch:
        asked.append((settings.board_token, who, workspace))
        return LeadSearch(as_of_ms=1, lag=0, trouble="", leads=[])

    monkeypatch.setattr("stream_app.client.results.lookup.find", fake)
    with pytest.raises(SettingsError, match="environment variable BOARD_TOKEN is not set"):
        find_lead_sync("crm-17", load_settings(config))
    monkeypatch.setenv("BOARD_TOKEN", TOKEN)
    assert find_lead_sync("crm-17", load_settings(config), workspace="acme").leads == []
    assert asyncio.run(find_lead("crm-18", config)).leads == []
    assert asked == [(TOKEN, "crm-17", "acme"), (TOKEN, "crm-18", None)]


def _import(workspace: str, columns: dict[str, int], rows: int | None = 3) -> FoundImport:
    published = None if rows is None else sum(columns.values())
    return FoundImport("march", workspace, 1, 2, "", "", rows, None, published, columns, 4)


def test_an_import_is_waited_for_until_all_its_leads_are_at_rest(
    config: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Leads of a workspace that the board does not know yet count, and so does a board that is away
    for a while.
    """
    monkeypatch.setenv("BOARD_TOKEN", TOKEN)
    monkeypatch.setattr("stream_app.client.results.lookup._LOOK_EVERY_S", 0.01)
    rest = [_import("acme", {"enriched": 1}), _import("beta", {"duplicate": 1, "parked": 1})]
    moves = [rest[0], _import("beta", {"waiting": 1, "parked": 1})]
    looks: list[list[FoundImport] | BoardUnavailable] = [
        [],
        BoardUnavailable("away"),
        rest[:1],
        moves,
        rest,
    ]

    def look(_settings: Settings, import_id: str, _workspace: str | None) -> ImportsAnswer:
        assert import_id == "march"
        now = looks.pop(0) if len(looks) > 1 else looks[0]
        if isinstance(now, BoardUnavailable):
            raise now
        return ImportsAnswer(as_of_ms=1, lag=0, trouble="", imports=now, more=False)

    monkeypatch.setattr("stream_app.client.results.lookup.find_imports", look)
    assert wait_for_import_sync("march", config) == rest
    assert looks == [rest]
    looks[:] = [moves]
    with pytest.raises(ImportUnderWay, match="import march: 1 of 3 leads are under way after 0 s"):
        wait_for_import_sync("march", config, timeout_s=0)
    looks[:] = [[]]
    with pytest.raises(ImportUnderWay, match="none of its leads is known"):
        wait_for_import_sync("march", config, timeout_s=0)
    looks[:] = [BoardUnavailable("away")]
    with pytest.raises(BoardUnavailable, match="away"):
        wait_for_import_sync("march", config, timeout_s=0.02)
    looks[:] = [[_import("acme", {"enriched": 1}, None)]]
    assert len(wait_for_import_sync("march", config, workspace="acme")) == 1
    for wrong in ({"import_id": ""}, {"import_id": "march", "timeout_s": -1}):
        with pytest.raises(ValueError, match=r"empty|negative"):
            wait_for_import_sync(settings=config, **wrong)


@pytest.fixture
def three_results(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two results on the topic that can be read, at 1 and 2 ms, and one that cannot."""

    async def read(
        _settings: Any,
        _wanted: Any,
        store: ResultStore,
        _stage: Any,
        *,
        people: bool,
    ) -> None:
        values = [
            msgspec.json.encode(Result(f"lead-{at_ms}", "acme", "people", "clay", 1, at_ms, 0, {}))
            for at_ms in (1, 2)
        ]
        store.put(
            (str(number).encode(), value)
            for number, value in enumerate((*values, b'{"fields": 1}'))
        )

    monkeypatch.setattr(sys.modules[export.__module__], "_read", read)
    monkeypatch.setattr(sys.modules[export.__module__], "kafka_ready", AsyncMock())


@pytest.mark.usefixtures("three_results")
def test_an_unreadable_result_is_an_error_unless_the_caller_takes_it(config: Path) -> None:
    with pytest.raises(
        StreamAppError,
        match=r"leads\.enriched cannot be read by this version: update",
    ):
        list(read_results_sync(config))
    lines: list[str] = []
    results = list(read_results_sync(config, on_unreadable=lines.append))
    assert [result.lead_id for result in results] == ["lead-1", "lead-2"]
    assert lines == ["a result on leads.enriched cannot be read by this version"]
    since = datetime.fromisoformat("1970-01-01T00:00:00.002+00:00")
    assert [
        result.lead_id
        for result in read_results_sync(config, since=since, on_unreadable=lines.append)
    ] == ["lead-2"]


@pytest.mark.usefixtures("three_results")
def test_results_end_early_without_leaving_anything_open(config: Path) -> None:
    async def first() -> str:
        stream: AsyncGenerator[Result] = results_of(
            load_settings(config),
            ResultFilter(),
            lambda _: None,
        )
        lead_id = (await anext(stream)).lead_id
        await stream.aclose()
        return lead_id

    assert asyncio.run(first()) == "lead-1"
    results = read_results_sync(config)
    assert next(results).lead_id == "lead-1"
    results.close()
    assert next(read_results_sync(config)).lead_id == "lead-1", "another loop starts"


EXAMPLES = ROOT / "examples"


def test_the_configuration_has_the_lanes_of_the_compose_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KAFKA_PASSWORD", "as in .env")
    assert load_settings(EXAMPLES / "stream_app.toml").workspaces
    own = tomllib.loads((EXAMPLES / "stream_app.toml").read_text(encoding="utf-8"))
    deployed = tomllib.loads((ROOT / "deploy" / "stream_app.toml").read_text(encoding="utf-8"))
    assert own["kafka"]["partitions"] == deployed["kafka"]["partitions"]
    for name, table in deployed["workspaces"].items():
        assert own["workspaces"][name]["partition"] == table["partition"]
    for alias, table in deployed["destinations"].items():
        assert own["destinations"][alias]["workspace"] == table["workspace"]
    assert own["kafka"]["security"] == deployed["kafka"]["security"]
    assert f"HOST://{own['kafka']['bootstrap']}" in kafka_properties()["advertised.listeners"]
    assert f"{own['board']['url'].removeprefix('http://')}:9107" in published("nginx")
