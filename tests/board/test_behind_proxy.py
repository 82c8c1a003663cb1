"""The board behind a real nginx: as the product configures it, and as one does who knows only `proxy_pass`."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import httpx
import pytest

from stream_app.board.requests import MAX_FILE_BYTES
from stream_app.dev.process import LOOPBACK, ChildProcesses, free_port, wait_for_answer
from tests.board.client import OWN, PAGES
from tests.board.scene import OPERATOR_TOKEN
from tests.board.serving import served
from tests.support.nginx import Nginx
from tests.support.pace import BUSY

URL: Final = "https://board.example.com"
STOCK: Final = """
pid {folder}/pid;
error_log stderr error;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    scgi_temp_path {folder}/scgi; uwsgi_temp_path {folder}/uwsgi;
    server {{
        listen 127.0.0.1:{port};
        {more}
        location {path} {{ proxy_pass {board}; }}
    }}
}}
"""
DEFAULTS: Final = {
    "nginx before 1.29.7": "",
    "nginx from 1.29.7 on": 'proxy_http_version 1.1; proxy_set_header Connection "";',
    "with the host of the client": "proxy_set_header Host $host;",
    "as HTTP/1.1 to the upstream": "proxy_http_version 1.1;",
}
"""What `proxy_pass` does when nothing else is set, in each version, and what people copy beside it."""
SENT: Final[dict[str, dict[str, str]]] = {
    "a browser": {"connection": "keep-alive", "sec-fetch-site": "none"},
    "one that claims to be here": {"host": "127.0.0.1:9107", "connection": "keep-alive"},
    "one that asks twice to keep": {"host": "127.0.0.1", "connection": "keep-alive, keep-alive"},
    "one that names the header": {"host": "127.0.0.1", "connection": "connection, keep-alive"},
}


@contextmanager
def stock_nginx(board: str, more: str, path: str = "/") -> Iterator[str]:
    """Yield the URL of an nginx with hardly more than `proxy_pass`."""
    program = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    assert program, "no nginx: run apt-get install -y --no-install-recommends nginx-light"
    children = ChildProcesses("nginx")
    try:
        folder, port = children.directory, free_port()
        text = STOCK.format(folder=folder, port=port, more=more, board=board, path=path)
        (folder / "nginx.conf").write_text(text)
        own = f"daemon off; {'user root;' if os.geteuid() == 0 else ''}"
        argv = [program, "-p", str(folder), "-e", "stderr", "-c", str(folder / "nginx.conf"), "-g", own]
        process = children.spawn(argv, log=folder / "log")

        def answers() -> bool:
            try:
                return bool(httpx.get(f"http://{LOOPBACK}:{port}/", timeout=5).status_code)
            except httpx.TransportError:
                return False

        wait_for_answer("nginx", process, answers, log=folder / "log", timeout_s=30 * BUSY)
        yield f"http://{LOOPBACK}:{port}"
    finally:
        children.close()


@pytest.mark.parametrize("more", DEFAULTS.values(), ids=DEFAULTS)
def test_a_board_without_a_token_answers_nobody_behind_a_proxy_that_says_nothing(folder: Path, more: str) -> None:
    """Its defaults name our own address as the host, so that the request looks as if it came from this machine."""
    with served(folder) as board, stock_nginx(board, more) as proxied:
        assert httpx.get(f"{board}/board").status_code == 200, "this machine itself"
        for who, headers in SENT.items():
            for page in ("/board", "/board/leads/crm-17", "/board/static/x"):
                answer = httpx.get(f"{proxied}{page}", headers=headers)
                assert answer.status_code == (404 if "static" in page else 403), (who, page)
                assert "acme" not in answer.text
            answer = httpx.post(f"{proxied}/board/leads/crm-17", headers=headers | OWN)
            assert answer.status_code == 403, who
            assert "ada@example.com" not in answer.text


def test_people_log_in_act_and_publish_through_the_products_proxy(folder: Path) -> None:
    """The cookie is for HTTPS only, other sites cannot use it, and a file of 50 MB arrives."""
    with served(folder, token=True, operator=True, url=URL) as board, Nginx(1, int(board.rpartition(":")[2])) as nginx:
        form = {"token": OPERATOR_TOKEN, "who": "jane", "next": "/board/lanes"}
        with httpx.Client(base_url=f"http://{LOOPBACK}:{nginx.board_port}", timeout=60 * BUSY) as client:
            assert client.get("/board").status_code == 303
            origins = [{"origin": "https://evil.example"}, {"origin": f"{URL}.evil.example"}]
            for headers in ({"sec-fetch-site": "cross-site"}, *origins, {}):
                assert client.post("/board/login", data=form, headers=headers).status_code == 403
            answer = client.post("/board/login", data=form, headers={"origin": URL})
            assert (answer.status_code, answer.headers["location"]) == (303, "/board/lanes")
            assert "; Secure" in answer.headers["set-cookie"]
            session = {"cookie": answer.headers["set-cookie"].partition(";")[0]}
            for forged in ("x-forwarded-for", "x-real-ip", "forwarded"):
                assert client.get("/board", headers={forged: LOOPBACK}).status_code == 303, "it proves nothing"
            assert "/board/dead/act/plan" in client.get("/board/dead", headers=session).text

            row = b"lead_id,workspace,email\n"
            file = row + b"L1,acme,p1@example.com\n" + b"\n" * (MAX_FILE_BYTES - len(row) - 23)
            for content, status in ((file, 303), (file + b"\n", 413)):
                files = {"file": ("leads.csv", content)}
                answer = client.post("/board/publish", files=files, headers=session | OWN)
                assert answer.status_code == status
            assert "split it, or publish it with" in answer.text, "the board says it, and not the proxy"


def test_the_board_may_have_the_path_board_of_a_shared_host(folder: Path) -> None:
    """Each link, form and file of its pages is below /board, so that path is all that the proxy needs to forward."""
    with served(folder, token=True, url=URL) as board, stock_nginx(board, "", "/board") as proxied:
        form = {"token": "not the token", "who": "jane"}
        assert httpx.get(f"{proxied}/board/login").status_code == 200
        assert httpx.post(f"{proxied}/board/login", data=form, headers=OWN).status_code == 403
        assert httpx.get(f"{proxied}/leads").status_code == 404
    with served(folder) as board, httpx.Client(base_url=board, timeout=60 * BUSY) as client:
        for page in PAGES:
            targets = re.findall(r' (?:href|src|action|hx-get)="([^"]*)"', client.get(page).text)
            outside = [target for target in targets if not re.match(r"/board(?:[/?#]|$)|[?#]|https://tempo", target)]
            assert targets
            assert not outside, page
