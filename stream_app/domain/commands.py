"""A command: its arguments, what a person enters for them, its record, the answer to it.

The class of the arguments is the one definition of a command. Its docstring is the text of its form
on the board, its fields are the options and the fields of the form, and every sender checks the
arguments by it before it writes the record, as the worker does when it reads that.
"""

import re
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from typing import Annotated, Any, Final, Literal, cast, get_args, get_type_hints

import msgspec
from msgspec import Meta, Struct, inspect

from stream_app.domain.lane.overrides import ORDERS, Order, OrderKind
from stream_app.domain.model.messages import StatusEvent
from stream_app.domain.model.numbers import TimeMs, Whole
from stream_app.domain.model.outcome import scrub
from stream_app.domain.model.records import ConsumedRecord, Record, RowChanges
from stream_app.domain.model.text import count
from stream_app.domain.model.untrusted import UNREADABLE, decode
from stream_app.domain.views.lane import LaneView

CommandKind = Literal[
    OrderKind,
    "resolve",
    "reload",
    "cancel_lead",
    "cancel_import",
    "suppress",
    "unsuppress",
    "erase",
]

MAX_PEOPLE: Final = 500  # the most people in one suppress command: its step is one transaction

_Name = Annotated[str, Meta(min_length=1, max_length=1_024)]
_Person = Annotated[str, Meta(pattern="^[A-Za-z0-9_-]{22}$")]
_Destination = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
_Cost = Annotated[
    Annotated[int, Meta(ge=0, le=1_000_000)] | None,
    Meta(description="that it cost, if it is at Clay"),
]
_FEW: Final = Meta(max_length=100)
_WHERE: Final = re.compile(r"^(.*) - at (?:`key` in )?`\$\.(.*)`$", re.DOTALL)


class Suppress(Struct, frozen=True):
    """Add people to the suppression list.

    Their leads then end as suppressed, in every workspace.
    """

    people: Annotated[tuple[_Person, ...], Meta(min_length=1, max_length=MAX_PEOPLE)]


class Unsuppress(Suppress, frozen=True):
    """Remove people from the list. Leads that ended as suppressed can be published again."""


class CancelLead(Struct, frozen=True):
    """Cancel a lead: what is not at Clay yet ends as suppressed."""

    lead_id: _Name


class CancelImport(Struct, frozen=True):
    """Cancel an import: what is not at Clay yet ends as suppressed."""

    import_id: _Name


class Erase(Struct, frozen=True, omit_defaults=True):
    """Erase a lead, or all leads of a person, from results, cache and look-up.

    The person is never sent again, not even from a dead letter. Clay's rows cannot be deleted from
    here; the command lists them.
    """

    lead_id: _Name
    destinations: Annotated[tuple[_Destination, ...], _FEW] = ()
    people: Annotated[tuple[_Person, ...], _FEW] = ()


class Resolve(Struct, frozen=True, omit_defaults=True):
    """Settle a parked lead.

    If it is not at Clay, what was booked for it is returned, and it stays parked: then plan a
    replay of it, with those that may have reached Clay. If it is given up, what was booked stays,
    because Clay may have charged for it.

    Attributes:
        credits: Credits that it cost, if it is at Clay. A missing amount stays as booked.
        actions: As `credits`, in Actions.
        give_up: A parked lead is not to be sent any more.
        not_at_clay: Clay has no row of a parked lead, so that it cost nothing.
        destination: Needed only if the lead went to several.
    """

    lead_id: _Name
    credits: _Cost = None
    actions: _Cost = None
    give_up: bool = False
    not_at_clay: bool = False
    destination: str = ""

    def __post_init__(self) -> None:
        is_priced = self.credits is not None or self.actions is not None
        if self.at_clay and not is_priced:
            raise ValueError("name what it cost: credits, actions, or both, 0 or more")
        if self.give_up and self.not_at_clay:
            raise ValueError("give_up and not_at_clay exclude each other")
        if self.not_at_clay and is_priced:
            raise ValueError(
                "a lead that is not at Clay has no cost: leave out credits and actions",
            )

    @property
    def at_clay(self) -> bool:
        """The lead is at Clay, and cost this."""
        return not (self.give_up or self.not_at_clay)


class Reload(Struct, frozen=True):
    """Have workers and replay reload configuration and secrets.

    They take over new webhooks, tokens and workspaces.
    """


Arguments = Order | Suppress | CancelLead | CancelImport | Erase | Resolve | Reload

ARGUMENTS: Final[Mapping[CommandKind, type[Arguments]]] = {
    **cast("Mapping[CommandKind, type[Arguments]]", ORDERS),
    "suppress": Suppress,
    "unsuppress": Unsuppress,
    "cancel_lead": CancelLead,
    "cancel_import": CancelImport,
    "erase": Erase,
    "resolve": Resolve,
    "reload": Reload,
}
"""By kind of command."""


def read_arguments(kind: CommandKind, args: Mapping[str, Any]) -> Arguments:
    """Return the arguments of a command.

    Raises ValueError with one line, which names what is wrong.
    """
    try:
        return msgspec.convert(args, ARGUMENTS[kind])
    except msgspec.ValidationError as error:
        raise ValueError(_short(_WHERE.sub(r"\2: \1", str(error)))) from None


def _short(problem: str) -> str:
    """Return one line.

    An error repeats what was sent, and the answer with it must not be too large for Kafka.
    """
    return " ".join(problem[:MAX_TEXT_CHARACTERS].split())


def help_text(kind: CommandKind) -> str:
    """Return what a kind of command does, in one or more paragraphs."""
    paragraphs = (" ".join(part.split()) for part in (ARGUMENTS[kind].__doc__ or "").split("\n\n"))
    return "\n\n".join(part for part in paragraphs if not part.startswith("Attributes:"))


class Entry(Struct, frozen=True):
    """A value that a person enters."""

    name: str  # the name of the option, and of the field in a form
    keys: tuple[str, ...]  # its place in the arguments of the command
    kind: Any  # its type, with its limits
    title: str = ""  # what it is, if its name does not say so
    says: str = ""  # what it does, in words
    number: str = ""  # `whole number` or `number`; '' if a number is no answer
    limits: str = ""  # the limits of the number, in words that follow `answers`
    # What may be entered, besides a number, and what it stands for.
    words: Mapping[str, bool | str | None] = {}
    required: bool = False  # the command needs it
    default: str = ""  # what it is if nothing is entered; '' if nothing is changed then

    @property
    def label(self) -> str:
        return self.title or self.name.replace("_", " ").capitalize()

    @property
    def hint(self) -> str:
        """What stands beside a field: what the label does not say."""
        return (not self.title and self.says) or f"{self.answers}; empty: unchanged"

    @property
    def answers(self) -> str:
        """What may be entered, in words."""
        *some, last = [*([f"a {self.number}"] if self.number else []), *self.words] or ["a text"]
        return f"{', '.join(some)} or {last}" if some else last

    @property
    def is_flag(self) -> bool:
        """True if it is one of two words that mean yes and no."""
        return set(self.words.values()) == {True, False}

    def value(self, entered: str | bool) -> object:
        """Return what was entered, or a flag, as a value.

        Raises ValueError, which says what may be entered.
        """
        if isinstance(entered, bool):
            return entered
        text = entered.replace(",", "") if self.number == "whole number" else entered
        if (word := text.lower()) in self.words:
            return self.words[word]
        with suppress(msgspec.ValidationError):
            # It is None for the text `null`, which is no word.
            if (value := msgspec.convert(text, self.kind, strict=False)) is not None:
                return cast(object, value)
        raise ValueError(f"{entered!r} is not {self.answers}{self.limits}")


def read_entries(
    kind: CommandKind,
    entered: Mapping[str, str | bool],
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the arguments of the command, and what is wrong with them, by entry."""
    args: dict[str, Any] = {}
    problems: dict[str, str] = {}
    for entry in entries(kind):
        if (given := entered.get(entry.name, "")) == "":
            continue
        *outer, key = entry.keys
        try:
            (args.setdefault(outer[0], {}) if outer else args)[key] = entry.value(given)
        except ValueError as error:
            problems[entry.name] = str(error)
    return args, problems


@cache
def entries(kind: CommandKind) -> tuple[Entry, ...]:
    """Return what a person enters for a kind of command."""
    wanted = list[Entry]()
    hints = get_type_hints(ARGUMENTS[kind], include_extras=True)
    for field in cast(inspect.StructType, inspect.type_info(ARGUMENTS[kind])).fields:
        hint = hints[field.name]
        key = field.encode_name
        # The keys of a dict are entries, and None is a value there: no limit.
        if isinstance(field.type, inspect.DictType):
            names, value = get_args(hint)
            for name in get_args(names):
                wanted.append(
                    _entry(
                        Entry(name, (key, name), value, words={"none": None}),
                        field.type.value_type,
                    ),
                )
        else:
            default = field.default if isinstance(field.default, str) else ""
            wanted.append(
                _entry(
                    Entry(field.name, (key,), hint, required=field.required, default=default),
                    field.type,
                ),
            )
    return tuple(wanted)


def _entry(entry: Entry, kind: inspect.Type) -> Entry:
    words = dict(entry.words)
    number = ""
    limits = ""
    about = dict[str, Any]()
    yes_no = ("on", "off")
    if isinstance(kind, inspect.Metadata):
        about = kind.extra_json_schema or {}
        yes_no = (kind.extra or {}).get("words", yes_no)
        kind = kind.type
    for part in kind.types if isinstance(kind, inspect.UnionType) else (kind,):
        match part:
            case inspect.LiteralType():
                words |= {str(word): str(word) for word in part.values}
            case inspect.BoolType():
                words |= dict(zip(yes_no, (True, False), strict=True))
            case inspect.IntType() | inspect.FloatType():
                number = "whole number" if isinstance(part, inspect.IntType) else "number"
                limits = f", from {part.ge:,} to {part.le:,}"
    title = about.get("title", "")
    says = about.get("description", "")
    return msgspec.structs.replace(
        entry,
        title=title,
        says=says,
        number=number,
        limits=limits,
        words=words,
    )


class Command(Struct, frozen=True, omit_defaults=True):
    """An operator's command to a lane.

    It is on `leads.commands`, keyed by workspace, in the workspace's home partition.

    Attributes:
        id: Chosen by the sender. A command that arrives twice, by redelivery or by mistake, is
            applied once.
        at_ms: When it was submitted, epoch ms. It expires after 24 hours.
        who: The operator, for the audit on `leads.audit`. The answer is written there too.
        why: The reason, for the audit.
        args: By kind. budget: `caps` (by name: a number, null for no limit, "configured"),
            `shadow`. correct: `credits`, `actions`, `period`. resolve: `lead_id`, `destination`,
            and `credits`, `actions` of a lead that is at Clay, `not_at_clay`, or `give_up`. rate:
            `rate_per_s`, `burst`. quota: `webhook_id`, `use`, `count`. cancel_lead: `lead_id`.
            cancel_import: `import_id`. suppress, unsuppress: `people` (hashes; no workspace, to
            every partition). erase: `lead_id`, `destinations`, `people` (hashes). The others have
            none.
    """

    id: str
    kind: CommandKind
    workspace: str
    at_ms: TimeMs
    who: str
    why: str = ""
    args: dict[str, Any] = {}


class CommandAnswer(Struct, frozen=True, omit_defaults=True):
    """The outcome of a command.

    It is on `leads.audit`, keyed like the command. Each command has one, which is written in the
    transaction that applied the command.

    Attributes:
        id: The id of the command, or its place on Kafka if it could not be read.
        applied: False: nothing was changed.
        at_ms: When it was applied or refused, epoch ms.
        asked_at_ms: When it was submitted, epoch ms.
        reason: Why nothing was changed, a stable code.
        text: The outcome in words.
        under_way: Requests to Clay from that partition that started before and still finish.
        people: How many people the suppression list gained or lost in that partition.
    """

    id: str
    applied: bool
    at_ms: TimeMs
    partition: Whole
    kind: str = ""
    workspace: str = ""
    who: str = ""
    why: str = ""
    asked_at_ms: TimeMs = 0
    reason: str = ""
    text: str = ""
    under_way: Whole = 0
    lane: LaneView | None = None
    people: Whole = 0


TO_ALL: Final = frozenset({"suppress", "unsuppress", "reload"})
"""Kinds that go to every partition. The others go to the home partition of their workspace."""

REPLAY_RELOAD: Final = "replay reload"
"""The kind of the replay processes' answers to `reload`: one for each partition, as the workers'
are.
"""

_MAX_AGE_MS: Final = 24 * 3_600_000
_MAX_ID_CHARACTERS: Final = 128
MAX_TEXT_CHARACTERS: Final = 400
_command: Final = msgspec.json.Decoder(Command)
_answer: Final = msgspec.json.Decoder(CommandAnswer)


class CommandResult(Struct, frozen=True):
    """What a command did (`text`, one line) and what it writes.

    If it is not `applied`, `reason` says why.
    """

    text: str
    applied: bool = True
    reason: str = ""
    rows: RowChanges = []
    records: list[Record] = []
    events: list[StatusEvent] = []
    people: int = 0


class Answered(Struct, frozen=True):
    """The value of the row that records that a command was answered. `at_ms`: when, epoch ms."""

    at_ms: int
    applied: bool


class _Signed(Struct, frozen=True):
    """The fields of an invalid command that its answer needs."""

    id: str
    workspace: str = ""


_signed: Final = msgspec.json.Decoder(_Signed)


def command_row(command_id: str) -> bytes:
    """Return the row key of an answered command."""
    return f"k/{command_id}".encode("utf-8", "surrogatepass")


def read_command(consumed: ConsumedRecord, now_ms: int) -> Command | CommandAnswer:
    """Return the command with shortened texts, or the refusal of an invalid one."""
    try:
        command = decode(_command, consumed.value)
    except ValueError as error:  # what msgspec raises is one, too
        return _unreadable(consumed, now_ms, str(error))
    if not 0 < len(command.id) <= _MAX_ID_CHARACTERS:
        return _unreadable(
            consumed,
            now_ms,
            f"its id must have 1 to {_MAX_ID_CHARACTERS} characters",
        )
    # The reason appears in events, views and the log.
    who = command.who[:_MAX_ID_CHARACTERS]
    why = scrub(command.why, MAX_TEXT_CHARACTERS)
    workspace = command.workspace[:_MAX_ID_CHARACTERS]
    return msgspec.structs.replace(command, who=who, why=why, workspace=workspace)


def refusal(
    command: Command,
    consumed: ConsumedRecord,
    now_ms: int,
    *,
    is_answered: bool,
) -> CommandResult | None:
    """Return why a command is refused, whatever it says; None if it is not.

    It was answered before, or is more than a day old.
    """
    if is_answered:
        return CommandResult(
            "command was answered before: nothing was done again",
            False,
            "repeated",
        )
    # Its age is by its own time or by the broker's, whichever is older.
    if now_ms - min(command.at_ms, consumed.timestamp_ms or command.at_ms) > _MAX_AGE_MS:
        return CommandResult(
            "command expired (older than 24 h): submit it again",
            False,
            "command_expired",
        )
    return None


def answer_to(
    command: Command,
    result: CommandResult,
    partition: int,
    now_ms: int,
    kind: str = "",
    **more: Any,
) -> CommandAnswer:
    """Return the answer to a command. `kind`: default: that of the command."""
    return CommandAnswer(
        command.id,
        result.applied,
        now_ms,
        partition,
        kind or command.kind,
        command.workspace,
        who=command.who,
        why=command.why,
        asked_at_ms=command.at_ms,
        reason=result.reason,
        text=result.text,
        people=result.people,
        **more,
    )


def read_answer(value: bytes | None) -> CommandAnswer | None:
    """Return the answer in a record of the audit; None if this version cannot read it."""
    try:
        return _answer.decode(value or b"")
    except UNREADABLE:
        return None


def outcome_text(text: str, under_way: int) -> str:
    """Describe the outcome of a command. `under_way`: requests to Clay that started before it."""
    return f"{text}; {count(under_way, 'request')} in progress will finish" if under_way else text


def command_id(value: bytes | None) -> str:
    """Return the id of the command's answer; '' if the command has none.

    Then its place identifies it.
    """
    return _read_signed(value).id


def _read_signed(value: bytes | None) -> _Signed:
    try:
        signed = decode(_signed, value)
    except ValueError:
        return _Signed("")
    return signed if len(signed.id) <= _MAX_ID_CHARACTERS else _Signed("", signed.workspace)


def _unreadable(consumed: ConsumedRecord, now_ms: int, why: str) -> CommandAnswer:
    signed = _read_signed(consumed.value)
    return CommandAnswer(
        id=signed.id or consumed.record_id,
        applied=False,
        at_ms=now_ms,
        partition=consumed.partition,
        workspace=signed.workspace[:_MAX_ID_CHARACTERS],
        reason="unreadable",
        text=f"this is no command that this version knows: {_short(why)}",
    )
