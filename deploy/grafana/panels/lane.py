"""The dashboard of one lane."""

from __future__ import annotations

from typing import Final

from panels.model import (
    BREAKER,
    LANES,
    RELEASE,
    TABLES,
    Dashboard,
    Panel,
    highest,
    increase,
    quantile,
    rate,
)

_OF_YIELD: Final = ("destination", "column", "window")

LANE: Final = Dashboard(
    "stream-app-lane",
    "stream-app: lane",
    "One workspace: its rate, Clay's answers, its money and its webhooks.",
    {
        "workspace": f"label_values(stream_app_lane_score{{{RELEASE}}}, workspace)",
        "destination": f"label_values(stream_app_lane_estimate_credits{{{LANES}}}, destination)",
    },
    {
        "$workspace": (
            Panel(
                "Health",
                "The score of the last five minutes, 0 to 100.",
                "short",
                {"{{workspace}}": highest("stream_app_lane_score", LANES, "workspace")},
                "number",
                4,
                {None: "red", 80: "orange", 95: "green"},
            ),
            Panel(
                "Calls counted",
                "The calls of the last five minutes. The score means little with few of them.",
                "short",
                {"{{workspace}}": highest("stream_app_lane_window_calls", LANES, "workspace")},
                "number",
                4,
            ),
            Panel(
                "Breaker",
                "The circuit breaker and, where an operator has forced it, its mode.",
                "short",
                {
                    "breaker": highest("stream_app_lane_breaker", LANES, "workspace"),
                },
                "states",
                8,
                states=BREAKER,
            ),
            Panel(
                "Mode",
                "1 for the mode of the breaker. Anything but `auto` is an operator's order.",
                "short",
                {"{{mode}}": f"max by (mode) (stream_app_lane_breaker_mode{{{LANES}}}) > 0"},
                "states",
                8,
                states={"1": ("in force", "blue")},
            ),
            Panel(
                "Rate: limit and use",
                "Leads a second that the lane may send, and that Clay accepted.",
                "ops",
                {
                    "limit": highest("stream_app_lane_rate_per_second", LANES, "workspace"),
                    "accepted": rate(
                        "stream_app_lead_events_total",
                        f'status="accepted",{LANES}',
                        "workspace",
                    ),
                },
            ),
            Panel(
                "Concurrency: limit",
                "POSTs that the lane may have in flight. It grows with a latency that stays low.",
                "short",
                {"limit": highest("stream_app_lane_concurrency", LANES, "workspace")},
            ),
            Panel(
                "Clay's latency",
                "The quantiles of the last five minutes.",
                "s",
                {"p{{quantile}}": highest("stream_app_lane_latency_seconds", LANES, "quantile")},
            ),
            Panel(
                "POSTs by outcome",
                "How Clay answered, per second. `ratelimited` is a 429.",
                "ops",
                {"{{outcome}}": rate("stream_app_post_seconds_count", TABLES, "outcome")},
                "stack",
            ),
            Panel(
                "Time of a POST, 95 %",
                "The time within which 95 % of the POSTs were answered.",
                "s",
                {
                    "{{destination}}": quantile(
                        0.95,
                        "stream_app_post_seconds",
                        "destination",
                        TABLES,
                    ),
                },
                exemplars=True,
            ),
            Panel(
                "Time of a POST",
                "How many POSTs took how long.",
                "s",
                {"{{le}}": increase("stream_app_post_seconds_bucket", TABLES, "le")},
                "heatmap",
            ),
            Panel(
                "Polls of routines' runs",
                "What Clay answers to questions for the results of runs, per second.",
                "ops",
                {"{{answer}}": rate("stream_app_run_polls_total", TABLES, "answer")},
                "stack",
            ),
            Panel(
                "Runs without results",
                "Runs that Clay has accepted and whose results are not known yet.",
                "short",
                {"{{destination}}": f"sum by (destination) (stream_app_runs_open{{{TABLES}}})"},
            ),
            Panel(
                "Oldest run without results",
                "Clay keeps results for about a day.",
                "s",
                {
                    "{{destination}}": highest(
                        "stream_app_runs_oldest_seconds",
                        TABLES,
                        "destination",
                    ),
                },
            ),
            Panel(
                "Time until the callback",
                "The time from Clay's acceptance of a lead to its first callback, for 50 % "
                "and 95 % of the leads.",
                "s",
                {
                    "{{destination}} 50 %": quantile(
                        0.5,
                        "stream_app_accepted_to_callback_seconds",
                        "destination",
                        TABLES,
                    ),
                    "{{destination}} 95 %": quantile(
                        0.95,
                        "stream_app_accepted_to_callback_seconds",
                        "destination",
                        TABLES,
                    ),
                },
                span=12,
            ),
            Panel(
                "Time until done, 95 %",
                "The time from the first event of a lead to its end, over all replays.",
                "s",
                {
                    "{{destination}}": quantile(
                        0.95,
                        "stream_app_received_to_done_seconds",
                        "destination",
                        TABLES,
                    ),
                },
                span=12,
            ),
            Panel(
                "Budget",
                "Credits and Actions of each meter: booked, reserved for leads under way, "
                "and spent elsewhere.",
                "short",
                {
                    "{{meter}} spent": highest("stream_app_lane_budget_spent", LANES, "meter"),
                    "{{meter}} reserved": highest(
                        "stream_app_lane_budget_reserved",
                        LANES,
                        "meter",
                    ),
                    "{{meter}} elsewhere": highest(
                        "stream_app_lane_budget_elsewhere",
                        LANES,
                        "meter",
                    ),
                    "{{meter}} cap": highest("stream_app_lane_budget_cap", LANES, "meter"),
                },
                span=12,
            ),
            Panel(
                "Credits a lead",
                "What a lead has come to cost, by destination.",
                "short",
                {
                    "{{destination}}": highest(
                        "stream_app_lane_estimate_credits",
                        LANES,
                        "destination",
                    ),
                },
                span=6,
            ),
            Panel(
                "What Clay finds",
                "The share of Clay's answers that have a value, by column. A window that falls far "
                "below the seven days before it may be a provider that fails.",
                "percentunit",
                {
                    "{{destination}} {{column}}, {{window}}": (
                        f"{highest('stream_app_yield_filled', LANES, *_OF_YIELD)} / "
                        f"{highest('stream_app_yield_answered', LANES, *_OF_YIELD)}"
                    ),
                },
                span=12,
                most=1,
            ),
            Panel(
                "Credits for each value",
                "All credits of the answered leads, for each value that was found in the column.",
                "short",
                {
                    "{{destination}} {{column}}, {{window}}": (
                        f"{highest('stream_app_yield_credits', LANES, *_OF_YIELD)} / "
                        f"({highest('stream_app_yield_filled', LANES, *_OF_YIELD)} > 0)"
                    ),
                },
                span=12,
            ),
            Panel(
                "Held only in shadow",
                "Leads that a shadow breaker or budget would have held.",
                "short",
                {"{{of}}": highest("stream_app_lane_shadow_leads", LANES, "of")},
                span=6,
            ),
            Panel(
                "Health of each destination",
                "The score of the last five minutes, 0 to 100. A destination that fails alone is "
                "held alone.",
                "short",
                {
                    "{{destination}}": highest(
                        "stream_app_lane_destination_score",
                        LANES,
                        "destination",
                    ),
                },
                span=12,
            ),
            Panel(
                "Webhooks: submissions left",
                "A webhook takes `quota_lifetime` submissions in its lifetime. Add a new one to "
                "the pool in time.",
                "short",
                {
                    "{{destination}}": (
                        f"min by (destination) (stream_app_lane_submissions_left{{{LANES}}})"
                    ),
                },
                "bars",
                12,
                {None: "red", 5_000: "green"},
            ),
            Panel(
                "Webhooks: submissions",
                "Submissions of each webhook in its lifetime.",
                "short",
                {"{{webhook}}": highest("stream_app_lane_webhook_submissions", LANES, "webhook")},
                span=12,
            ),
        ),
    },
    repeat="workspace",
    annotations={
        "Changes of the lane": (
            f"sum by (workspace, kind) (increase(stream_app_lane_changes_total{{{LANES}}}[1m])) > 0"
        ),
    },
)
