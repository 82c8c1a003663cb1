"""The operations endpoints that every process serves: /metrics, /healthz and /readyz."""

import httpx
import pytest
from prometheus_client import CollectorRegistry, Counter

from stream_app.domain.errors import StreamAppError
from stream_app.services.process import serve_ops


async def test_metrics_health_and_readiness_are_served() -> None:
    registry = CollectorRegistry()
    Counter("leads", "Leads.", registry=registry).inc(exemplar={"trace_id": "abc"})
    reasons: list[str | None] = [None]

    async def not_ready() -> str | None:
        return reasons[0]

    async with serve_ops("127.0.0.1", 0, registry, not_ready) as port, httpx.AsyncClient() as client:
        url = f"http://127.0.0.1:{port}"
        metrics = await client.get(f"{url}/metrics")
        assert (metrics.status_code, "leads_total 1.0" in metrics.text) == (200, True)
        assert metrics.headers["content-type"].startswith("text/plain; version=")
        assert "trace_id" not in metrics.text
        asked = {"accept": "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"}
        metrics = await client.get(f"{url}/metrics", headers=asked)
        assert metrics.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
        assert 'leads_total 1.0 # {trace_id="abc"} 1.0' in metrics.text
        assert metrics.text.endswith("# EOF\n")
        assert [(await client.get(f"{url}/{path}")).text for path in ("healthz", "readyz")] == ["ok\n", "ok\n"]
        reasons[0] = "not joined to the group yet"
        answer = await client.get(f"{url}/readyz")
        assert (answer.status_code, answer.text) == (503, "not joined to the group yet\n")
        assert (await client.get(f"{url}/other")).status_code == 404
        assert (await client.post(f"{url}/healthz")).status_code == 405


async def test_a_port_that_is_taken_is_an_error_in_one_line() -> None:
    async def not_ready() -> str | None:
        return None

    async with serve_ops("127.0.0.1", 0, CollectorRegistry(), not_ready) as port:
        with pytest.raises(StreamAppError, match=rf"^cannot serve on 127\.0\.0\.1:{port} .*\[http\]"):
            async with serve_ops("127.0.0.1", port, CollectorRegistry(), not_ready):
                pass
