"""The command line: help that costs nothing, exit codes that mean what the help says, JSON that is
one document.
"""

import contextlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from stream_app.cli.base import Common
from stream_app.cli.main import COMMANDS, build_app, main, parse
from stream_app.dev.process import free_port
from stream_app.domain.model.errors import (
    BrokerUnavailable,
    KafkaRefused,
    SettingsError,
    StreamAppError,
    TopicsError,
)
from tests.support.config import one_way
from tests.support.pace import BUSY, slowness

ACTIONS = [
    (name, action)
    for name in COMMANDS
    for action in build_app()[name]
    if not action.startswith("-")
]


_WORD = re.compile(r"`[^`]*`\S*|\S+")  # a command within backticks stays on one line


def help_of(*command: str) -> str:
    done = io.StringIO()
    with contextlib.redirect_stdout(done):
        assert main([*command, "--help"]) == 0
    return done.getvalue()


def common_options(typed: str) -> tuple[Path | None, bool]:
    """`--config` and `--json`, as the command gets them."""
    _, arguments = parse(typed.split())
    arguments.apply_defaults()
    (options,) = (
        argument for argument in arguments.arguments.values() if isinstance(argument, Common)
    )
    return options.config, options.json


@pytest.mark.parametrize(
    "words",
    [(), *((command,) for command in COMMANDS), *ACTIONS],
    ids=" ".join,
)
def test_every_page_of_help_is_plain_text_with_an_example_and_the_common_options(
    words: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = help_of(*words)
    assert f"example:\n  {' '.join(['stream-app', *words[:1]])}" in text
    assert f"  {' '.join(['stream-app', *words])}" in text
    assert "--json" in text
    assert "--config" in text
    assert text.isascii()
    assert "\x1b" not in text
    # examples stay whole
    lines = [line for line in text.splitlines() if not line.startswith("  stream-app")]
    assert all(len(line) <= 80 for line in lines), lines


@pytest.mark.parametrize("words", [*((command,) for command in COMMANDS), *ACTIONS], ids=" ".join)
def test_a_page_of_help_fills_its_lines_and_has_whole_examples(
    words: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The source is laid out for its own width, and its lines are not those of a terminal."""
    monkeypatch.setenv("COLUMNS", "80")
    text = help_of(*words)
    lines = text.splitlines()
    description = lines[: next(n for n, line in enumerate(lines) if line.startswith("example:"))]
    short = [
        line
        for line, following in pairwise(description)
        if line and following and len(f"{line} {_WORD.findall(following)[0]}") <= 80
    ]
    assert short == []
    examples = text.partition("example:\n")[2].partition("\n\n")[0].splitlines()
    assert all(shlex.split(line) for line in examples)  # it refuses a line within quotes
    assert "Args:" not in text  # they are in the table of options


def test_the_help_documents_the_exit_codes() -> None:
    text = help_of()
    for code in (0, 1, 2, 3, 4, 5, 6, 130):
        assert f"\n  {code} " in text


@pytest.mark.parametrize(
    ("typed", "config", "as_json"),
    [
        ("--config x.toml --json lanes", "x.toml", True),
        ("lanes --config x.toml --json", "x.toml", True),
        ("--config x.toml --json lanes pause acme --why y", "x.toml", True),
        ("lanes --config x.toml --json pause acme --why y", "x.toml", True),
        ("lanes pause acme --why y --config x.toml --json", "x.toml", True),
        ("--config x.toml lanes --json pause acme --why y", "x.toml", True),
        ("--config=x.toml --json lanes pause acme --why y", "x.toml", True),
        # the one nearest to the end wins
        ("--config x.toml lanes --config y.toml", "y.toml", False),
        ("--config lanes books", "lanes", False),  # a value that looks like a command is a value
        ("lanes", None, False),
    ],
)
def test_common_options_stand_before_or_after_the_command(
    typed: str,
    config: str | None,
    as_json: bool,
) -> None:
    assert common_options(typed) == (config and Path(config), as_json)


@pytest.mark.parametrize(
    ("typed", "option", "value"),
    [
        ("results -o - --workspace acme", "output", "-"),
        ("suppress add --file - --why x", "file", "-"),
        ("dlq export - --reason x", "file", "-"),
        ("dlq export --reason x -", "file", "-"),
        ("publish -- --odd.csv", "file", "--odd.csv"),
    ],
)
def test_a_dash_is_a_file(typed: str, option: str, value: str) -> None:
    _, arguments = parse(typed.split())
    assert arguments.arguments[option] == Path(value)


def test_help_imports_nothing_heavy() -> None:
    heavy = (
        "('aiokafka', 'aiohttp', 'faust', 'httpx', 'msgspec', 'starlette', 'stream_app.config', "
        "'asyncio')"
    )
    code = (
        "import sys; from stream_app.cli.main import main; main(['--help']); "
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=30 * BUSY,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("typed", "problem"),
    [
        ("lanes stop acme", "unknown command 'stop'; there are: pause, resume, trip,"),
        ("bokks", "unknown command 'bokks'; did you mean 'books'?"),
        ("publish --bulk", "FILE is missing"),
        ("books --limt 3", "Did you mean --limit?"),
        ("lanes pause acme", "--why is missing"),
        ("lanes pause --why x", "WORKSPACE is missing"),
        ("lanes pause acme --why", "--why needs a value"),
        (
            "dlq --disposition none",
            "--disposition: 'none' is not failed, poison, policy, foreign or deferred",
        ),
        ("lanes --limit 1.5", "--limit: '1.5' is not a whole number"),
        ("lanes --limit 0", "--limit"),
        ("dlq --status 5.03", "--status: '5.03' is not a whole number"),
        ("results --since noon", "--since: 'noon' is not a time such as 2026-11-24T08:00"),
        ("lanes pause acme more --why x", "unexpected argument 'more'"),
    ],
)
@pytest.mark.parametrize("as_json", [True, False])
def test_wrong_usage_is_one_line_that_says_what_to_do(
    typed: str,
    problem: str,
    as_json: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = typed.split()
    assert main([*(["--json"] if as_json else []), *words]) == 2
    out, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert problem in line
    assert "_" not in line, "no name of ours is in it"
    command = " ".join(
        words[:2]
        if words[1:2] and words[1] in build_app()["lanes"]
        else words[: words[0] in COMMANDS],
    )
    assert line.endswith(f"(see `{' '.join(['stream-app', *command.split(), '--help'])}`)")
    assert json.loads(out) == {"error": [line], "exit_code": 2} if as_json else out == ""


def raising(error: BaseException) -> Callable[..., int]:
    def run(*_: object) -> int:
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SettingsError(["a", "b"]), 2),
        (TopicsError(["a", "b"]), 1),
        (BrokerUnavailable("a\nb"), 4),
        (KafkaRefused("a\nb"), 6),
        (StreamAppError("a\nb"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
@pytest.mark.parametrize("as_json", [True, False])
def test_an_error_is_its_lines_and_its_code(
    error: BaseException,
    code: int,
    as_json: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("stream_app.cli.base.Common.settings", raising(error))
    assert main(["topics", *(["--json"] if as_json else [])]) == code
    out, err = capsys.readouterr()
    lines = ["interrupted"] if code == 130 else ["a", "b"]
    assert err.splitlines() == lines
    assert (
        json.loads(out) == {"error": lines, "exit_code": code}
        if as_json and code != 130
        else out == ""
    )


@pytest.mark.parametrize(
    "typed",
    [
        "results --workspace unknown",
        "status x --workspace unknown",
        "erase x --why y --workspace unknown",
        "explain --workspace unknown",
        "lanes log unknown",
        "lanes pause unknown --why x",
        "dlq --workspace unknown",
        "replay plan --destination unknown",
    ],
)
def test_a_name_that_is_not_in_the_configuration_is_2_and_says_which_there_are(
    typed: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "stream_app.toml"
    path.write_text(one_way(people="acme"))
    assert main([*typed.split(), "--config", str(path)]) == 2
    if "--destination" in typed:
        word = "destination"
        known = "people"
    else:
        word = "workspace"
        known = "acme"
    expected = f"there is no {word} unknown in the configuration; there are: {known}\n"
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize(
    "typed",
    ["topics", "dlq", "suppress list", "erase x --why y", "replay plan", "lanes log"],
)
def test_no_kafka_is_reported_without_the_words_of_a_library(
    typed: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    where = f"127.0.0.1:{free_port()}"
    path = tmp_path / "stream_app.toml"
    wait_s = round(slowness())
    path.write_text(f"[kafka]\nbootstrap = '{where}'\nbroker_wait_s = {wait_s}\n")
    assert main([*typed.split(), "--config", str(path)]) == 4
    first, *_, last = capsys.readouterr().err.splitlines()
    assert (
        first
        == f"Kafka at {where} does not answer ({where}: connection refused); trying again in 0.5 s"
    )
    assert last == (
        f"Kafka at {where} did not answer within {wait_s} s ({where}: connection refused). Is it "
        "running, and is "
        "kafka.bootstrap right?"
    )


@pytest.mark.parametrize(("reader", "before_s", "after_s"), [("true", 0.5, 0), ("sleep 0.5", 0, 1)])
def test_a_reader_that_leaves_is_no_error(
    tmp_path: Path,
    reader: str,
    before_s: float,
    after_s: float,
) -> None:
    """Before anything is written, or when all is, and before Python itself would write it at its
    end.
    """
    code = (
        f"import sys, time; from stream_app.cli.main import main; time.sleep({before_s});"
        "code = main(['topics', '--strimzi', 'c', '--config', sys.argv[1]]); "
        f"time.sleep({after_s}); sys.exit(code)"
    )
    path = tmp_path / "stream_app.toml"
    path.write_text("")
    done = subprocess.run(
        ["/bin/sh", "-c", f'"$0" -c "$1" "$2" | {reader}', sys.executable, code, str(path)],
        env={**os.environ, "PYTHONUNBUFFERED": ""},
        capture_output=True,
        text=True,
        timeout=30 * BUSY,
        check=False,
    )
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


ASK_BASH = r"""
source "$1"
read -ra COMP_WORDS <<< "$2"
COMP_CWORD=$((${#COMP_WORDS[@]} - 1)) COMP_LINE=$2 COMP_POINT=${#2}
$(complete -p stream-app | sed 's/.*-F \([^ ]*\) .*/\1/')
printf '%s\n' "${COMPREPLY[@]}"
"""
"""Calls the function that the script has registered, as bash does when a user presses Tab."""


def test_bash_completes_commands_and_options(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["completion", "bash"]) == 0
    (tmp_path / "script").write_text(capsys.readouterr().out)
    for typed, completed in (("--config x lanes pau", "pause"), ("lanes pause acme --wh", "--why")):
        argv = ["bash", "-c", ASK_BASH, "bash", str(tmp_path / "script"), f"stream-app {typed}"]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60 * BUSY, check=True)
        assert done.stderr == "", typed
        assert completed in done.stdout.splitlines(), typed


INTERRUPTED_AT = """
import os
import signal
import sys


class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[1]:
            sys.argv.pop(1)
            os.kill(os.getpid(), signal.SIGINT)


sys.meta_path.insert(0, Interrupt())
from stream_app.__main__ import main
sys.exit(main())
"""


@pytest.mark.parametrize(
    "module",
    ["stream_app.cli.main", "stream_app.domain.model.errors", "cyclopts"],
)
def test_ctrl_c_in_the_first_moments_is_no_traceback(module: str) -> None:
    """The imports of a command take longer than a person who has mistyped."""
    argv = [sys.executable, "-c", INTERRUPTED_AT, module, "demo"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60 * BUSY, check=False)
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    assert done.stdout == ""


def test_the_installed_program_begins_where_ctrl_c_is_expected() -> None:
    scripts = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"][
        "scripts"
    ]
    assert scripts == {"stream-app": "stream_app.__main__:main"}
