"""The board behind a real nginx: as the product configures it, and as one does who knows only
`proxy_pass`.
"""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import httpx
import pytest

from stream_app.board.requests import MAX_FILE_BYTES
from stream_app.dev.process import LOOPBACK, ChildProcesses, free_port
from tests.board.client import OWN
from tests.board.scene import OPERATOR_TOKEN
from tests.board.serving import served
from tests.support.nginx import Nginx, start_nginx
from tests.support.pace import BUSY

pytestmark = pytest.mark.nginx

URL: Final = "https://board.example.com"
STOCK: Final = """
pid {folder}/pid;
error_log stderr error;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    scgi_temp_path {folder}/scgi;
    uwsgi_temp_path {folder}/uwsgi;
    {servers}
}}
"""
SERVER: Final = (
    "server {{ listen 127.0.0.1:{port}; {more} location {path} {{ proxy_pass {board}; }} }}\n"
)
DEFAULTS: Final = {
    "nginx before 1.29.7": "",
    "nginx from 1.29.7 on": 'proxy_http_version 1.1; proxy_set_header Connection "";',
    "with the host of the client": "proxy_set_header Host $host;",
    "as HTTP/1.1 to the upstream": "proxy_http_version 1.1;",
}
"""What `proxy_pass` does when nothing else is set, in each version, and what people copy beside it.
"""
SENT: Final[dict[str, dict[str, str]]] = {
    "a browser": {"connection": "keep-alive", "sec-fetch-site": "none"},
    "one that claims to be here": {"host": "127.0.0.1:9107", "connection": "keep-alive"},
    "one that asks twice to keep": {"host": "127.0.0.1", "connection": "keep-alive, keep-alive"},
    "one that names the header": {"host": "127.0.0.1", "connection": "connection, keep-alive"},
}


@contextmanager
def stock_nginx(board: str, *settings: str, path: str = "/") -> Iterator[list[str]]:
    """Yield the URLs of an nginx with hardly more than `proxy_pass`, one for each of these settings
    of a server.
    """
    children = ChildProcesses("nginx")
    ports = [free_port() for _ in settings]
    servers = [
        SERVER.format(port=port, more=more, board=board, path=path)
        for port, more in zip(ports, settings, strict=True)
    ]
    try:
        start_nginx(
            children,
            STOCK.format(folder=children.directory, servers="".join(servers)),
            ports[0],
        )
        yield [f"http://{LOOPBACK}:{port}" for port in ports]
    finally:
        children.close()


def test_a_board_without_a_token_answers_nobody_behind_a_proxy_that_says_nothing(
    folder: Path,
) -> None:
    """Its defaults name our own address as the host, so that the request looks as if it came from
    this machine.
    """
    with (
        served(folder) as board,
        stock_nginx(board, *DEFAULTS.values()) as urls,
        httpx.Client() as client,
    ):
        for (default, proxied), (who, headers) in itertools.product(
            zip(DEFAULTS, urls, strict=True),
            SENT.items(),
        ):
            for page in ("/board", "/board/leads/crm-17", "/board/static/x"):
                answer = client.get(f"{proxied}{page}", headers=headers)
                assert answer.status_code == (404 if "static" in page else 303), (
                    default,
                    who,
                    page,
                )
                assert "acme" not in answer.text
            answer = client.post(f"{proxied}/board/leads/crm-17", headers=headers | OWN)
            assert answer.status_code == 401, (default, who)
            assert "ada@example.com" not in answer.text


def test_people_log_in_act_and_publish_through_the_products_proxy(folder: Path) -> None:
    """The cookie is for HTTPS only, other sites cannot use it, and a file of 50 MB arrives."""
    with (
        served(folder, token=True, operator=True, url=URL) as board,
        Nginx(1, int(board.rpartition(":")[2])) as nginx,
    ):
        form = {"token": OPERATOR_TOKEN, "who": "jane", "next": "/board/lanes"}
        with httpx.Client(
            base_url=f"http://{LOOPBACK}:{nginx.board_port}",
            timeout=60 * BUSY,
        ) as client:
            assert client.get("/board").status_code == 303
            origins = [{"origin": "https://evil.example"}, {"origin": f"{URL}.evil.example"}]
            for headers in ({"sec-fetch-site": "cross-site"}, *origins, {}):
                assert client.post("/board/login", data=form, headers=headers).status_code == 403
            answer = client.post("/board/login", data=form, headers={"origin": URL})
            assert answer.status_code == 303
            assert answer.headers["location"] == "/board/lanes"
            assert "; Secure" in answer.headers["set-cookie"]
            session = {"cookie": answer.headers["set-cookie"].partition(";")[0]}
            for forged in ("x-forwarded-for", "x-real-ip", "forwarded"):
                assert client.get("/board", headers={forged: LOOPBACK}).status_code == 303, (
                    "it proves nothing"
                )
            assert "/board/dead/act/plan" in client.get("/board/dead", headers=session).text

            row = b"lead_id,workspace,email\n"
            file = row + b"L1,acme,p1@example.com\n" + b"\n" * (MAX_FILE_BYTES - len(row) - 23)
            for content, status in ((file, 303), (file + b"\n", 413)):
                files = {"file": ("leads.csv", content)}
                answer = client.post("/board/publish", files=files, headers=session | OWN)
                assert answer.status_code == status
            assert "split it, or publish it with" in answer.text, (
                "the board says it, and not the proxy"
            )


def test_an_older_browser_logs_in_where_people_reach_the_proxy(folder: Path) -> None:
    """It sends no Sec-Fetch-Site. The board knows of the proxy's port only by the header Host."""
    url = "http://board:9107"  # as in deploy/stream_app.toml: the other containers' name for it
    with (
        served(folder, token=True, operator=True, url=url) as board,
        Nginx(1, int(board.rpartition(":")[2])) as nginx,
    ):
        form = {"token": OPERATOR_TOKEN, "who": "jane"}
        own = f"http://{LOOPBACK}:{nginx.board_port}"
        for origin, status in (
            (own, 303),
            (f"http://{LOOPBACK}:1", 403),
            (f"http://{LOOPBACK}", 403),
        ):
            answer = httpx.post(f"{own}/board/login", data=form, headers={"origin": origin})
            assert answer.status_code == status, origin


def test_the_board_may_have_the_path_board_of_a_shared_host(folder: Path) -> None:
    """test_links.py holds each link, form and file of its pages to be below /board: more the proxy
    need not forward.
    """
    with (
        served(folder, token=True, url=URL) as board,
        stock_nginx(board, "", path="/board") as (proxied,),
    ):
        form = {"token": "not the token", "who": "jane"}
        assert httpx.get(f"{proxied}/board/login").status_code == 200
        assert httpx.post(f"{proxied}/board/login", data=form, headers=OWN).status_code == 403
        assert httpx.get(f"{proxied}/leads").status_code == 404
