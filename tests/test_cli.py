"""The command line: help that costs nothing, exit codes that mean what the help says, JSON that is one document."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from stream_app import __version__
from stream_app.cli import main as cli
from stream_app.cli.main import COMMANDS, build_parser, main
from stream_app.dev.process import free_port
from stream_app.domain.errors import BrokerUnavailable, Fenced, KafkaRefused, SettingsError, StreamAppError, TopicsError


def subcommands() -> dict[str, argparse.ArgumentParser]:
    parser = build_parser()
    actions = parser._subparsers._group_actions if parser._subparsers else []  # argparse names no way
    return dict(actions[0].choices or {})


def test_every_command_has_help_with_an_example_and_the_common_options() -> None:
    parsers = subcommands()
    assert list(parsers) == list(COMMANDS)
    for name, parser in parsers.items():
        text = parser.format_help()
        assert f"example:\n  stream-app {name}" in text
        assert "--json" in text
        assert "--config" in text


def test_the_help_documents_the_exit_codes() -> None:
    text = build_parser().format_help()
    for code in (0, 1, 2, 3, 4, 5, 6, 130):
        assert f"\n  {code} " in text


@pytest.mark.parametrize(
    "typed",
    [
        "--config x.toml --json lanes",
        "lanes --config x.toml --json",
        "--config x.toml lanes --json",
        "--config x.toml --json lanes pause acme --why y",
        "lanes --config x.toml --json pause acme --why y",
        "lanes pause acme --why y --config x.toml --json",
        "--config x.toml lanes --json pause acme --why y",
    ],
)
def test_common_options_stand_before_or_after_the_command(typed: str) -> None:
    args = build_parser().parse_args(typed.split())
    assert (args.config, args.json) == (Path("x.toml"), True)


@pytest.mark.parametrize("typed", ["lanes", "lanes pause acme --why y"])
def test_common_options_have_defaults(typed: str) -> None:
    args = build_parser().parse_args(typed.split())
    assert (args.config, args.json) == (None, False)


def test_the_option_nearest_to_the_end_wins() -> None:
    args = build_parser().parse_args(["--config", "x.toml", "lanes", "--config", "y.toml"])
    assert args.config == Path("y.toml")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"stream-app {__version__}\n"


def test_help_imports_nothing_heavy() -> None:
    heavy = "('aiokafka', 'aiohttp', 'faust', 'httpx', 'msgspec', 'rich', 'shtab', 'asyncio')"
    code = (
        "import sys; from stream_app.cli.main import build_parser; build_parser().format_help(); "
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.strip() == "[]"


def raising(error: BaseException) -> Callable[[argparse.Namespace], int]:
    def run(_: argparse.Namespace) -> int:
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SettingsError(["a", "b"]), 2),
        (TopicsError(["a", "b"]), 1),
        (BrokerUnavailable("a\nb"), 4),
        (KafkaRefused("a\nb"), 6),
        (Fenced("a\nb"), 1),
        (StreamAppError("a\nb"), 1),
    ],
)
@pytest.mark.parametrize("as_json", [True, False])
def test_an_error_is_its_lines_and_its_code(
    error: StreamAppError,
    code: int,
    as_json: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("stream_app.cli.schemas.run", raising(error))
    assert main(["schemas", *(["--json"] if as_json else [])]) == code
    out, err = capsys.readouterr()
    assert err == "a\nb\n"
    assert json.loads(out) == {"error": ["a", "b"], "exit_code": code} if as_json else out == ""


def test_ctrl_c(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("stream_app.cli.schemas.run", raising(KeyboardInterrupt()))
    assert main(["schemas"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_wrong_usage_is_2(capsys: pytest.CaptureFixture[str]) -> None:
    for argv in ([], ["nonsense"], ["publish"]):
        with pytest.raises(SystemExit) as caught:
            main(argv)
        assert caught.value.code == 2
    assert "usage: stream-app" in capsys.readouterr().err


def test_wrong_configuration_is_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text("[kafka]\npartition = 3\nreplicas = 2\n")
    assert main(["topics", "--config", str(path)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 2


@pytest.mark.parametrize(
    "typed",
    [
        "results --workspace nobody",
        "results --destination nobody",
        "status x --workspace nobody",
        "erase x --why y --workspace nobody",
        "explain --workspace nobody",
        "lanes log nobody",
        "lanes pause nobody --why x",
        "dlq --workspace nobody",
        "replay plan --destination nobody",
    ],
)
def test_a_name_that_is_not_in_the_configuration_is_2_and_says_which_there_are(
    typed: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "stream_app.toml"
    path.write_text(
        "[workspaces.acme]\n[destinations.people]\nworkspace = 'acme'\nwebhooks_env = ['X']\ncallbacks = false\n"
    )
    name, *more = typed.split()
    assert main([name, *more, "--config", str(path)]) == 2
    word, known = ("destination", "people") if "--destination" in typed else ("workspace", "acme")
    said = f"there is no {word} nobody in the configuration; there are: {known}\n"
    assert capsys.readouterr().err == said


def test_an_address_of_the_demos_kafka_that_is_none_is_told_as_it_was_given(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--bootstrap", "nohost"]) == 2
    assert capsys.readouterr().err == "--bootstrap nohost: must be host:port, several separated by commas\n"
    monkeypatch.setenv("KAFKA_BOOTSTRAP", "h:99999")
    assert main(["demo"]) == 2
    assert capsys.readouterr().err == "KAFKA_BOOTSTRAP h:99999: must be host:port, several separated by commas\n"


@pytest.mark.parametrize("place", ["foo", "leads/0/1", "leads.dlq/8/1"])
def test_a_place_that_can_be_none_of_a_letter_is_wrong_usage(
    place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "stream_app.toml"
    path.write_text("")
    assert main(["dlq", "show", place, "--config", str(path)]) == 2
    assert place in capsys.readouterr().err


def test_no_kafka_is_4_and_says_that_it_waits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "stream_app.toml"
    path.write_text(f"[kafka]\nbootstrap = '127.0.0.1:{free_port()}'\nbroker_wait_s = 1\n")
    assert main(["topics", "--config", str(path)]) == 4
    lines = capsys.readouterr().err.splitlines()
    assert "trying again in" in lines[0]
    assert "did not answer within 1 s" in lines[-1]


@pytest.mark.parametrize(
    "typed", ["dlq", "suppress list", "erase x --why y", "replay plan", "replay rewind --to-earliest", "lanes log"]
)
def test_no_kafka_is_told_without_the_words_of_a_library(
    typed: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = f"127.0.0.1:{free_port()}"
    path = tmp_path / "stream_app.toml"
    path.write_text(f"[kafka]\nbootstrap = '{where}'\nbroker_wait_s = 1\n")
    assert main([*typed.split(), "--config", str(path)]) == 4
    first, *_, last = capsys.readouterr().err.splitlines()
    assert first == f"Kafka at {where} does not answer ({where}: connection refused); trying again in 0.5 s"
    assert last == (
        f"Kafka at {where} did not answer within 1 s ({where}: connection refused). Is it running, and is "
        "kafka.bootstrap right?"
    )


@pytest.mark.parametrize(("reader", "before_s", "after_s"), [("true", 0.5, 0), ("sleep 0.5", 0, 1)])
def test_a_reader_that_leaves_is_no_error(tmp_path: Path, reader: str, before_s: float, after_s: float) -> None:
    """Before anything is written, or when all is, and before Python itself would write it at its end."""
    code = (
        f"import sys, time; from stream_app.cli.main import main; time.sleep({before_s});"
        f"code = main(['schemas', sys.argv[1], '--json']); time.sleep({after_s}); sys.exit(code)"
    )
    done = subprocess.run(
        ["/bin/sh", "-c", f'"$0" -c "$1" "$2" | {reader}', sys.executable, code, str(tmp_path)],
        env={**os.environ, "PYTHONUNBUFFERED": ""},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


def test_commands_are_modules() -> None:
    folder = Path(cli.__file__).parent
    declaring = {
        path.stem.replace("_", "-") for path in folder.glob("*.py") if "\ndef add(" in path.read_text(encoding="utf-8")
    }
    assert declaring == set(COMMANDS)
