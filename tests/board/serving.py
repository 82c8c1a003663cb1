"""The board of the scene on a real port, in a thread of its own, for a browser."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stream_app.ops.http import serve_http
from stream_app.services.board import board_app
from tests.board.scene import board_of, fill, settings_of
from tests.support.pace import BUSY


@contextmanager
def served(
    folder: Path,
    *,
    token: bool = False,
    operator: bool = False,
    url: str = "http://127.0.0.1:9107",
) -> Iterator[str]:
    """Yield the URL of a board over the scene."""
    settings = settings_of(folder, token=token, operator=operator, url=url)
    path = folder / "model.sqlite"
    if not path.exists():
        fill(path, settings)
    ports: list[int] = []
    ready = threading.Event()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve() -> None:
        board = board_of(settings, path)
        async with serve_http(board_app(board.routes()), "127.0.0.1", 0, grace_s=1) as port:
            ports.append(port)
            ready.set()
            await stop.wait()
        board.close()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), name="board")
    thread.start()
    try:
        assert ready.wait(60 * BUSY), "the board does not start"
        yield f"http://127.0.0.1:{ports[0]}"
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(60 * BUSY)
        loop.close()
