"""Pages with a form that changes something: the one way in which the board acts.

To add one, write two functions, and list the `Action` in `actions_of`:

1. `show(opened)` returns the `Form`: what changes, from what to what, the fields, and the word to
   type if it cannot be undone. It runs in the board's thread and may query the read model. It
   raises `AccessRefused` if there is no such thing.
2. `submit(submission)` does it, and returns the address to go to next: `followed_at(path,
   [submission.id], sent_ms)` is a page that shows the answer of the command. It runs in the event
   loop. It raises `Invalid` to show the form again, with each problem beside its field, and
   `BrokerUnavailable` if Kafka is away: then the form keeps what was entered.

`Actions` does the rest, the same for all: only operators, only from our own page, a reason, the
typed word, and 303 as the answer. The form carries a random number. `submission.id` is made from it
and from what was entered. So a second click gives the same id, and a command is applied once; a
changed form gives another id.

The page is `form.html`, or a template that extends it and fills its block `details` from
`form.more`.
"""

import re
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from hashlib import sha256
from typing import Final, Literal

import msgspec
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from stream_app.board.access import AccessRefused
from stream_app.board.page import PAGE_HEADERS, PageHandler, PageMaker
from stream_app.board.requests import read_form
from stream_app.board.site import Moment, PageData
from stream_app.domain.commands import MAX_TEXT_CHARACTERS
from stream_app.domain.model.errors import BrokerUnavailable, SettingsError

_NONCE: Final = re.compile(r"[0-9a-f]{32}")


class FormField(msgspec.Struct, frozen=True):
    """A field of a form.

    Attributes:
        name: Its key in `FormSubmission.values`.
        was: The value in force, in words; '' if there is none.
        choices: Value and label of each.
        value: What it begins with.
        most: Characters at most.
    """

    name: str
    label: str
    was: str = ""
    hint: str = ""
    kind: Literal["text", "number", "choice"] = "text"
    choices: Sequence[tuple[str, str]] = ()
    value: str = ""
    required: bool = False
    most: int = MAX_TEXT_CHARACTERS


class Fact(msgspec.Struct, frozen=True):
    """What the button changes.

    Attributes:
        now: What it will be.
    """

    label: str
    was: str
    now: str


class Form(msgspec.Struct, frozen=True):
    """A form.

    Attributes:
        title: What it does to what, such as `Pause acme`.
        text: The same in a sentence.
        back: Where the link beside the button leads.
        asks_why: A reason is required.
        typed: The word that must be typed to confirm; '' for none.
        is_final: What it does cannot be undone.
        more: What a template of its own shows.
    """

    title: str
    text: str
    button: str
    back: str
    facts: Sequence[Fact] = ()
    fields: Sequence[FormField] = ()
    asks_why: bool = True
    typed: str = ""
    is_final: bool = False
    more: PageData = {}


class FormRequest(msgspec.Struct, frozen=True):
    """A request for a form.

    Attributes:
        path: The parameters of the path.
        query: The parameters of the query.
    """

    path: Mapping[str, str]
    query: Mapping[str, str]
    moment: Moment


class FormSubmission(msgspec.Struct, frozen=True):
    """A form that was sent.

    Attributes:
        form: The form, made again.
        id: The id of the command, the same for the same content of the same form.
        values: What was entered, without spaces around it.
    """

    opened: FormRequest
    form: Form
    id: str
    who: str
    why: str
    values: Mapping[str, str]


class Invalid(Exception):
    """What was entered cannot be done. `problems`: the text by field; '' is the form as a whole."""

    def __init__(self, problems: Mapping[str, str]) -> None:
        super().__init__("; ".join(problems.values()))
        self.problems = problems


class Action(msgspec.Struct, frozen=True):
    """A page with a form, for operators.

    Attributes:
        path: Its path below /board, with parameters.
        current: The page that the navigation marks.
        template: The template without its suffix.
    """

    path: str
    show: Callable[[FormRequest], Form]
    submit: Callable[[FormSubmission], Awaitable[str]]
    current: str
    template: str = "form"


class FormPage(msgspec.Struct, frozen=True):
    """What the template shows.

    Attributes:
        values: What was entered, by field.
        problems: What is wrong with it, by field.
    """

    form: Form
    who: str
    nonce: str
    values: Mapping[str, str] = {}
    problems: Mapping[str, str] = {}


class Actions:
    """Answers requests for forms, and forms that were sent.

    The caller has checked role and origin.
    """

    def __init__(self, maker: PageMaker, actions: Sequence[Action]) -> None:
        self._maker = maker
        self._actions = actions

    def routes(self) -> list[tuple[str, str, PageHandler]]:
        """Return method, path below /board and handler of each."""
        return [
            (method, action.path, partial(handler, action))
            for action in self._actions
            for method, handler in (("GET", self._show), ("POST", self._submit))
        ]

    async def _show(self, action: Action, request: Request, moment: Moment) -> Response:
        _, form = await self._open(action, request, moment)
        return await self._page(
            action,
            request,
            moment,
            FormPage(form, moment.visitor.who, secrets.token_hex(16)),
            200,
        )

    async def _submit(self, action: Action, request: Request, moment: Moment) -> Response:
        values = {name: value.strip() for name, value in (await read_form(request)).items()}
        nonce = values.pop("form", "")
        if not _NONCE.fullmatch(nonce):
            raise AccessRefused(400, "no_form", "Send the form of the page")
        opened, form = await self._open(action, request, moment)
        content = msgspec.json.encode([nonce, request.scope["path"], sorted(values.items())])
        command_id = f"c-{sha256(content).hexdigest()[:32]}"
        who = moment.visitor.who
        submission = FormSubmission(opened, form, command_id, who, values.get("why", ""), values)
        try:
            _check(form, values)
            return RedirectResponse(await action.submit(submission), 303, PAGE_HEADERS)
        except Invalid as invalid:
            problems = invalid.problems
            status = 422
        except SettingsError as error:
            problems = {"": f"Nothing was sent: {'; '.join(error.problems)}"}
            status = 422
        except BrokerUnavailable as error:
            problems = {"": str(error)}
            status = 503
        return await self._page(
            action,
            request,
            moment,
            FormPage(form, who, nonce, values, problems),
            status,
        )

    async def _open(
        self,
        action: Action,
        request: Request,
        moment: Moment,
    ) -> tuple[FormRequest, Form]:
        path = {name: str(value) for name, value in request.path_params.items()}
        opened = FormRequest(path, dict(request.query_params), moment)
        return opened, await self._maker.threads.run(partial(action.show, opened))

    async def _page(
        self,
        action: Action,
        request: Request,
        moment: Moment,
        page: FormPage,
        status: int,
    ) -> Response:
        title = page.form.title
        return await self._maker.page(
            request,
            moment,
            action.template,
            title,
            lambda: page,
            current=action.current,
            live=False,
            status=status,
        )


def _check(form: Form, values: Mapping[str, str]) -> None:
    """Raise Invalid if something is missing, or is no value of its field."""
    problems: dict[str, str] = {}
    for field in form.fields:
        value = values.get(field.name, "")
        if field.required and not value:
            problems[field.name] = f"Enter {field.label[0].lower()}{field.label[1:]}"
        elif len(value) > field.most:
            problems[field.name] = f"At most {field.most:,} characters"
        elif value and field.kind == "choice" and value not in dict(field.choices):
            problems[field.name] = "Choose one of these"
    if form.asks_why and not values.get("why"):
        problems["why"] = "Enter the reason: the audit log keeps it"
    if form.typed and values.get("typed", "") != form.typed:
        problems["typed"] = f"Type {form.typed} to confirm"
    if problems:
        raise Invalid(problems)
