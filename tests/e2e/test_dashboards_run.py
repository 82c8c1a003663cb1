"""Each panel of the Grafana dashboards has data: a real Prometheus scrapes the running stack of docker-compose.yml."""

import json
import re
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
import yaml

from stream_app.dev.process import LOOPBACK, free_port, wait_for_answer
from tests.e2e.test_deploy_run import Stack, stack
from tests.repository.test_deploy import OURS, PROMETHEUS
from tests.support.pace import BUSY
from tests.support.promtool import prometheus
from tests.unit.deploy.test_dashboards import PANELS

__all__ = ["stack"]

WINDOW = "30s"
AFTER_TROUBLE_ONLY = {
    "Dead letters": "there are none",
    "Dead letters by reason": "there are none",
    "Leads answered by the cache": "no lead is",
    "Credits saved by the cache": "no lead is answered from the cache",
    "Records moved": "nothing is replayed",
    "Spans": "there is no trace process",
    "Repaired callbacks and cut connections": "all callbacks are valid",
    "Lost to retention": "retention removes nothing",
    "Calls to Redis": "no lane is held long enough to ask the cache",
    "Possible double spends": "shown as 0",
}
"""Panels that may have no data while all is well, with the reason."""


def filled(query: str) -> str:
    query = re.sub(r"\$(workspace|destination|instance)", ".*", query).replace("$release", "stream-app")
    return query.replace("$__rate_interval", WINDOW).replace("$__range", WINDOW)


class Prometheus:
    """A Prometheus that scrapes the stack each second."""

    def __init__(self, stack: Stack) -> None:
        self.url = f"http://{LOOPBACK}:{free_port()}"
        config = {
            "global": {"scrape_interval": "1s"},
            "scrape_configs": [
                {
                    "job_name": job["job_name"],
                    "static_configs": [{"targets": [f"{LOOPBACK}:{stack.moved(str(found['port']))}"]}],
                    "relabel_configs": job["relabel_configs"],
                }
                for job in PROMETHEUS["scrape_configs"]
                for found in job["dns_sd_configs"]
            ],
        }
        path = stack.directory / "prometheus.yml"
        path.write_text(yaml.safe_dump(config))
        log_file = stack.directory / "prometheus.log"
        argv = [str(prometheus()), f"--config.file={path}", f"--storage.tsdb.path={stack.directory / 'tsdb'}"]
        options = [f"--web.listen-address={self.url.removeprefix('http://')}", "--enable-feature=exemplar-storage"]
        process = stack.children.spawn([*argv, *options], log=log_file)
        wait_for_answer("Prometheus", process, lambda: self.ask("up") is not None, log=log_file, timeout_s=60)

    def ask(self, query: str) -> list[Any] | None:
        """The samples of a query now; None while Prometheus does not answer."""
        try:
            found: list[Any] = self._get("query", query=query)["result"]
        except OSError:
            return None
        return found

    def traces(self, query: str) -> set[str]:
        """The trace ids of the exemplars of a query in the last ten minutes."""
        series = self._get("query_exemplars", query=query, start=time.time() - 600, end=time.time())
        return {exemplar["labels"]["trace_id"] for each in series for exemplar in each["exemplars"]}

    def _get(self, what: str, **parameters: object) -> Any:
        with urlopen(f"{self.url}/api/v1/{what}?{urlencode(parameters)}", timeout=5) as answer:
            return json.load(answer)["data"]


def without_data(prometheus: Prometheus) -> Iterator[str]:
    for uid, panel in PANELS:
        if not any(prometheus.ask(filled(target["expr"])) for target in panel["targets"]):
            yield f"{uid}: {panel['title']}"


@pytest.mark.long
@pytest.mark.timeout(400)
def test_each_panel_has_data(stack: Stack) -> None:
    made = stack.run("topics", *OURS["topics"]["command"])
    assert made.returncode == 0, made.stderr
    stack.start_redis()
    for name in ("sim", "worker", "replay", "gateway", "board"):
        stack.start(name)
    scraping = Prometheus(stack)
    expected = {f"{uid}: {panel['title']}" for uid, panel in PANELS if panel["title"] in AFTER_TROUBLE_ONLY}
    left: set[str] = set()
    deadline = time.monotonic() + 180 * BUSY
    for round_ in range(100):
        leads = "email,first_name\n" + "".join(f"p{round_}-{n}@example.com,Ada\n" for n in range(20))
        sent = stack.run("topics", "publish", "-", "--format", "csv", "--workspace", "acme", sent=leads)
        assert sent.returncode == 0, sent.stderr
        if round_ == 1:
            paused = stack.run("topics", "lanes", "pause", "globex", "--why", "to see it")
            assert paused.returncode == 0, paused.stderr
        left = set(without_data(scraping))
        if left <= expected or time.monotonic() > deadline:
            break
        time.sleep(2)
    assert left <= expected, "these panels show nothing"
    traces = scraping.traces("stream_app_post_seconds_bucket")
    assert traces
    assert all(re.fullmatch("[0-9a-f]{32}", trace) for trace in traces)
