"""The dashboard of the processes."""

from __future__ import annotations

from typing import Final

from panels.model import CALM, PODS, RELEASE, Dashboard, Panel, highest, increase, quantile, rate

MACHINE_ROOM: Final = Dashboard(
    "stream-app-machine-room",
    "stream-app: machine room",
    "The processes: commits, memory, CPU, Kafka and Redis.",
    {"instance": f'label_values(up{{job=~"worker|replay|gateway|board",{RELEASE}}}, instance)'},
    {
        "Worker": (
            Panel(
                "POSTs in flight",
                "Requests to Clay that wait for an answer.",
                "short",
                {"{{instance}}": f"sum by (instance) (stream_app_in_flight{{{PODS}}})"},
            ),
            Panel(
                "Time of a transaction, 95 %",
                "The time within which 95 % of the transactions were committed.",
                "s",
                {"{{instance}}": quantile(0.95, "stream_app_commit_seconds", "instance", PODS)},
            ),
            Panel(
                "Commits",
                "Steps and records that were committed, per second.",
                "ops",
                {
                    "steps {{instance}}": rate("stream_app_commit_steps_total", PODS, "instance"),
                    "records {{instance}}": rate(
                        "stream_app_commit_records_total",
                        PODS,
                        "instance",
                    ),
                },
            ),
            Panel(
                "Rows in memory",
                "Two or three for each lead within freshness_days.",
                "short",
                {"{{instance}}": f"sum by (instance) (stream_app_rows{{{PODS}}})"},
            ),
            Panel(
                "Recoveries",
                "Partitions that were taken over again after a failed transaction.",
                "short",
                {"{{instance}}": increase("stream_app_recoveries_total", PODS, "instance")},
            ),
            Panel(
                "Partitions with records that cannot be read",
                "They have stopped before these records: `stream-app explain`.",
                "short",
                {
                    "{{topic}} {{instance}}": highest(
                        "stream_app_unreadable_partitions",
                        PODS,
                        "topic",
                        "instance",
                    ),
                },
            ),
            Panel(
                "Commands",
                "Operators' commands by kind and answer.",
                "short",
                {
                    "{{kind}}: {{answer}}": increase(
                        "stream_app_commands_total",
                        PODS,
                        "kind",
                        "answer",
                        window="$__range",
                    ),
                },
                "bars",
            ),
            Panel(
                "Calls to Redis",
                "Calls by outcome. `skipped` follows failures for a while; leads go on "
                "without the cache.",
                "ops",
                {"{{outcome}}": rate("stream_app_redis_calls_total", PODS, "outcome")},
                "stack",
            ),
            Panel(
                "Rows of an unknown kind",
                "A newer version may have written them. They are kept.",
                "short",
                {
                    "{{instance}}": increase(
                        "stream_app_unknown_rows_total",
                        PODS,
                        "instance",
                        window="$__range",
                    ),
                },
                "number",
                4,
                CALM,
            ),
            Panel(
                "Lost to retention",
                "Records that Kafka deleted before they were consumed, at most.",
                "short",
                {
                    "{{topic}}": increase(
                        "stream_app_expired_records_total",
                        PODS,
                        "topic",
                        window="$__range",
                    ),
                },
                "number",
                4,
                CALM,
            ),
        ),
        "Replay process": (
            Panel(
                "Records moved",
                "Dead letters and deferred leads that were moved on, by the topic they were in.",
                "ops",
                {"{{topic}}": rate("stream_app_replay_moved_total", PODS, "topic")},
                "stack",
                24,
            ),
        ),
        "Trace process": (
            Panel(
                "Spans",
                "Spans that were sent to the OpenTelemetry receiver, and that it refused.",
                "ops",
                {"{{result}}": rate("stream_app_trace_spans_total", PODS, "result")},
                "stack",
                24,
            ),
        ),
        "Gateway": (
            Panel(
                "Responses",
                "HTTP responses by status.",
                "ops",
                {"{{status}}": rate("stream_app_gateway_responses_total", PODS, "status")},
                "stack",
                6,
            ),
            Panel(
                "Time of a callback, 99 %",
                "The time within which 99 % of the callbacks were stored and answered.",
                "s",
                {"{{instance}}": quantile(0.99, "stream_app_callback_seconds", "instance", PODS)},
                span=6,
            ),
            Panel(
                "Callbacks held",
                "Callbacks in memory that wait for Kafka, and those lost when a gateway ended.",
                "short",
                {
                    "held, {{instance}}": f"stream_app_callbacks_held{{{PODS}}}",
                    "lost, {{instance}}": f"stream_app_callbacks_lost_total{{{PODS}}}",
                },
                span=6,
            ),
            Panel(
                "Bytes of held callbacks",
                "Bytes of the bodies of callbacks in memory that wait for Kafka.",
                "bytes",
                {"{{instance}}": f"stream_app_callbacks_held_bytes{{{PODS}}}"},
                span=6,
            ),
            Panel(
                "Oldest held callback",
                "How long the oldest callback has waited for Kafka.",
                "s",
                {"{{instance}}": f"stream_app_callbacks_held_oldest_seconds{{{PODS}}}"},
                span=6,
            ),
            Panel(
                "Gateways by configuration",
                "How many have the same tables, secrets and keys. More than one line: some "
                "did not adopt a change yet.",
                "short",
                {"{{digest}}": f"sum by (digest) (stream_app_gateway_tables_info{{{PODS}}})"},
                span=6,
            ),
            Panel(
                "Repaired callbacks",
                "Callbacks with broken JSON by destination.",
                "short",
                {
                    "{{destination}}": increase(
                        "stream_app_callbacks_repaired_total",
                        PODS,
                        "destination",
                    ),
                },
                span=6,
            ),
            Panel(
                "Read model: records behind",
                "Offsets that the read model still has to read, at most.",
                "short",
                {"{{instance}}": highest("stream_app_read_model_lag", PODS, "instance")},
                span=12,
            ),
            Panel(
                "Read model: age",
                "How old the answers of the look-up API are.",
                "s",
                {
                    "{{instance}}": (
                        "time() - min by (instance) "
                        f"(stream_app_read_model_as_of_seconds{{{PODS}}})"
                    ),
                },
                span=12,
            ),
        ),
        "Processes": (
            Panel(
                "CPU",
                "Cores in use.",
                "short",
                {
                    "{{job}} {{instance}}": rate(
                        "process_cpu_seconds_total",
                        PODS,
                        "job",
                        "instance",
                    ),
                },
            ),
            Panel(
                "Memory",
                "Resident memory.",
                "bytes",
                {"{{job}} {{instance}}": f"process_resident_memory_bytes{{{PODS}}}"},
            ),
            Panel(
                "Open files",
                "Files and sockets, of the limit.",
                "percentunit",
                {"{{job}} {{instance}}": f"process_open_fds{{{PODS}}} / process_max_fds{{{PODS}}}"},
                most=1,
            ),
            Panel(
                "Versions",
                "How many processes run each version.",
                "short",
                {"{{version}}": f"count by (version) (stream_app_build_info{{{PODS}}})"},
                "states",
                24,
            ),
        ),
    },
)
