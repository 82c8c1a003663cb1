"""mq-bridge: a route in its configuration; all work is done by its Rust engine."""

from __future__ import annotations

import os

from mq_bridge import Route

PACED = os.environ["RATE_PER_S"] != "0"
limiter = [{"limiter": {"messages_per_second": float(os.environ["RATE_PER_S"])}}] if PACED else []
retry = {"retry": {"max_attempts": 6, "initial_interval_ms": 500, "max_interval_ms": 10_000}}
dlq = {"dlq": {"endpoint": {"kafka": {"url": os.environ["BOOTSTRAP"], "topic": os.environ["DLQ"]}}}}
route = Route.from_config(
    {
        # the limiter lets a batch through at once
        "batch_size": 1 if PACED else int(os.environ["IN_FLIGHT"]),
        "input": {
            "kafka": {
                "url": os.environ["BOOTSTRAP"],
                "topic": [os.environ["LEADS"], os.environ["BULK"]],
                "group_id": os.environ["GROUP"],
                "consumer_options": [
                    ["auto.offset.reset", "earliest"],
                    ["session.timeout.ms", os.environ["SESSION_MS"]],
                    ["heartbeat.interval.ms", "1000"],
                ],
            },
        },
        "output": {
            "middlewares": [*limiter, retry, dlq],
            "http": {
                "url": os.environ["URL"],
                "batch_concurrency": int(os.environ["IN_FLIGHT"]),
                "custom_headers": {"content-type": "application/json"},
            },
        },
    },
)

if __name__ == "__main__":
    route.run()
