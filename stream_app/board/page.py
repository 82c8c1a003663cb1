"""A page as HTML: its content, made once for all that ask for the same, within what every page shows."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import msgspec

from stream_app.board.commands import Followed, follow
from stream_app.board.formats import clock
from stream_app.board.pages.waiting import behind_path
from stream_app.board.render import Renderer
from stream_app.board.site import Shared, Site


class Frame(msgspec.Struct, frozen=True):
    """What every page shows around its content.

    Attributes:
        url: The address of the page, without the host.
        age_ms: None if the model was never complete.
        live: The page refreshes itself.
        operator: The page is shown to an operator.
        may_log_in: A login would allow more.
        commands: The ids of commands whose answers the page shows.
        banner: The name of the installation; '' for none.
    """

    title: str
    current: str
    nav: tuple[tuple[str, str, str], ...]
    url: str
    now_ms: int
    age_ms: int | None
    lag: int
    trouble: str
    stale: bool
    kafka_known: bool
    who: str
    live: bool
    operator: bool
    has_session: bool
    may_log_in: bool
    commands: list[str]
    banner: str


class Job(msgspec.Struct, frozen=True):
    """A page to make.

    Attributes:
        make: Returns what the template shows; None if the workspace is unknown.
        shared: Keeps the content for others; None: no one else asks for it.
    """

    frame: Frame
    template: str
    make: Callable[[], msgspec.Struct | None]
    shared: Shared | None


class Pages:
    """Makes pages. Use it from one thread."""

    def __init__(self, site: Site, renderer: Renderer) -> None:
        self._site = site
        self._renderer = renderer

    def html_of(self, job: Job) -> bytes | None:
        """Return the page; None if `make` returned None."""
        content = partial(self._content, job)
        made = content() if job.shared is None else job.shared.once((job.frame.url, job.frame.operator), content)
        return None if made is None else self.framed(job.frame, made, follow(self._site, job.frame.commands))

    def _content(self, job: Job) -> str | None:
        """Render what a page shows within its frame. Templates see only what is the same for all of a role."""
        frame = job.frame
        with self._site.queries.snapshot():
            page = job.make()
        if page is None:
            return None
        context = {
            "page": page,
            "operator": frame.operator,
            "url": frame.url,
            "now_ms": frame.now_ms,
            "lag": frame.lag,
            "kafka_known": frame.kafka_known,
            "clock": partial(clock, now_ms=frame.now_ms),
            "behind_path": partial(behind_path, self._site.settings.names.bulk),
        }
        return self._renderer.render(f"{job.template}.html", context)

    def framed(self, frame: Frame, content: str, answers: list[Followed]) -> bytes:
        """Return a page with this content."""
        return self._renderer.render("base.html", {"frame": frame, "content": content, "answers": answers}).encode()
