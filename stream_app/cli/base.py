"""What all commands share: common options, exit codes, and questions at the terminal."""

# No `from __future__ import annotations`: cyclopts looks for the types of inherited options in the
# subclass's module.

import os
import sys
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

from cyclopts import App, CoercionError, Group, Parameter, Token, convert

from stream_app.cli.output import say, show, show_json
from stream_app.domain.model import errors

if TYPE_CHECKING:
    from stream_app.cli.tables import Table
    from stream_app.config import Settings
    from stream_app.config.variables import Need

OK: Final = 0
NO: Final = 1
USAGE: Final = 2
QUEUED: Final = 3
NO_KAFKA: Final = 4
NO_BOARD: Final = 5
REFUSED: Final = 6
INTERRUPTED: Final = 130

EXIT_CODES: Final = """exit codes:
  0    success
  1    a negative result: checks failed, rows were refused, topics differ
  2    wrong usage or configuration
  3    queued: no worker answered yet, or leads are under way (publish --wait)
  4    Kafka does not answer
  5    the board does not answer
  6    Kafka refuses access: credentials, certificate, protocol or rights
  130  interrupted (Ctrl-C)"""

EXIT_CODE_OF: Final = {
    errors.SettingsError: USAGE,
    errors.BrokerUnavailable: NO_KAFKA,
    errors.BoardUnavailable: NO_BOARD,
    errors.NotTheBoard: NO_BOARD,
    errors.KafkaRefused: REFUSED,
}
"""The exit code of a command that an error ends. It is NO for all others."""

OPTIONS: Final = Group("Options", sort_key=2)
_COMMON: Final = Group("Common options", sort_key=9)

T = TypeVar("T")


def _whole(kind: Any, tokens: Sequence[Token]) -> Any:
    """Convert as cyclopts does, but refuse 1.5 instead of rounding it."""
    for token in tokens:
        if "." in token.value:
            raise CoercionError(token=token, target_type=kind)
    return convert(kind, tokens)


WHOLE: Final = Parameter(converter=_whole)
WholeNumber = Annotated[int, WHOLE]
OptionalWhole = Annotated[int | None, WHOLE]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Common:
    """The options of every command."""

    config: Annotated[Path | None, Parameter(group=_COMMON)] = None
    """configuration (default: the file in STREAM_APP_CONFIG, else stream_app.toml)"""
    json: Annotated[bool, Parameter(group=_COMMON)] = False
    """one JSON document on stdout; the rest on stderr"""

    def settings(self, *needs: "Need", workspace: str | None = None) -> "Settings":
        """Load the configuration with the secrets that these parts need.

        Raises SettingsError, also if it does not have the workspace that a command names.
        """
        from stream_app.config import check_known, load_settings

        settings = load_settings(self.config, os.environ, needs)
        check_known(settings, workspace=workspace)
        return settings

    def show(self, document: Any, *parts: "str | Table") -> None:
        """Print a result: the document with `--json`, else the lines and tables."""
        if self.json:
            show_json(document)
        self.tell(*parts)

    def tell(self, *parts: "str | Table", hang: int = 0) -> None:
        """Print lines and tables for people, which `--json` leaves out.

        `hang` is how far a line is indented where it goes on, in cells.
        """
        if self.json:
            return
        for part in parts:
            if isinstance(part, str):
                show(part, hang)
            else:
                part.show()


COMMON: Final = Common()


def with_actions(name: str) -> App:
    """Return a command that has actions."""
    return App(
        name=name,
        group_commands=Group("Actions", sort_key=1),
        group_parameters=OPTIONS,
        help_epilogue="",
    )


def on_kafka(settings: "Settings", program: str, work: Coroutine[Any, Any, T]) -> T:
    """Check that Kafka is ready for a program, then run `work` in a new event loop.

    Args:
        settings: The settings.
        program: A key of `rights_of`.
        work: What to run.

    Raises:
        KafkaRefused, TopicsError, BrokerUnavailable: Kafka is not ready.
    """
    import asyncio

    from stream_app.config.kafka_access import kafka_ready

    async def run() -> T:
        try:
            await kafka_ready(settings, program, say)
        except BaseException:
            work.close()
            raise
        return await work

    return asyncio.run(run())


def confirm(what: str, *, yes: bool) -> None:
    """Ask the user at the terminal to confirm, unless `yes` already does.

    Raises:
        SettingsError: Standard input is no terminal.
        StreamAppError: The answer is not yes.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise errors.SettingsError(
            [f"cannot ask for confirmation without a terminal: pass --yes to {what}"],
        )
    if not answered_yes(what):
        raise errors.StreamAppError("cancelled: nothing was changed")


def answered_yes(what: str) -> bool:
    """Ask the user at the terminal, and return True if the answer is yes."""
    say(f"{what}? [y/N]")
    return sys.stdin.readline().strip().lower() in ("y", "yes")
