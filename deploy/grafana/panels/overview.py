"""The dashboard to start with."""

from __future__ import annotations

from typing import Final

from panels.model import (
    BREAKER,
    CALM,
    LANES,
    RELEASE,
    Dashboard,
    Panel,
    births,
    highest,
    increase,
    quantile,
    rate,
)

_HELD: Final = f"{highest('stream_app_lane_holds', LANES, 'workspace')} > 0"
_HELD_IN_PART: Final = f"{highest('stream_app_lane_destination_holds', LANES, 'workspace')} > 0"

OVERVIEW: Final = Dashboard(
    "stream-app-overview",
    "stream-app: overview",
    "Does everything flow, and if not, which lane is held? Start here.",
    {"workspace": f"label_values(stream_app_lane_score{{{RELEASE}}}, workspace)"},
    {
        "Now": (
            Panel(
                "Lanes held",
                "Lanes that send nothing now, and those of which only some leads are held. The row "
                "below shows why.",
                "short",
                {
                    "held": f"count({_HELD}) or vector(0)",
                    "in part": f"count({_HELD_IN_PART} unless on (workspace) {_HELD}) or vector(0)",
                },
                "number",
                4,
                CALM,
            ),
            Panel(
                "Processes up",
                "Workers, replay processes, gateways and the board that answer Prometheus.",
                "short",
                {"{{job}}": f'sum by (job) (up{{job=~"worker|replay|gateway|board",{RELEASE}}})'},
                "number",
                8,
                {None: "red", 1: "green"},
            ),
            Panel(
                "Stalled",
                "Things that should make progress by themselves and do not. /readyz of the "
                "process names them.",
                "short",
                {"stalled": f"sum(stream_app_stalled{{{RELEASE}}})"},
                "number",
                4,
                CALM,
            ),
            Panel(
                "Possible double spends",
                "Leads that policy or an operator sent again although they may have reached Clay.",
                "short",
                {
                    "{{workspace}}": increase(
                        "stream_app_possible_double_spends_total",
                        LANES,
                        "workspace",
                        window="$__range",
                    ),
                },
                "number",
                4,
                CALM,
            ),
            Panel(
                "Parked leads",
                "Leads that wait for an operator: `stream-app dlq`.",
                "short",
                {"parked": f"sum(stream_app_parked_leads{{{LANES}}}) or vector(0)"},
                "number",
                4,
                {None: "green", 1: "orange"},
            ),
        ),
        "Lanes": (
            Panel(
                "What holds each lane",
                "One bar for each lane and reason while the lane is held, and for each destination "
                "whose leads alone are held. `stream-app explain` says what lifts it.",
                "short",
                {
                    "{{workspace}}: {{reason}}": highest(
                        "stream_app_lane_holds",
                        LANES,
                        "workspace",
                        "reason",
                    ),
                    "{{workspace}}, only {{destination}}: {{reason}}": highest(
                        "stream_app_lane_destination_holds",
                        LANES,
                        "workspace",
                        "destination",
                        "reason",
                    ),
                },
                "states",
                12,
                states={"1": ("held", "orange")},
            ),
            Panel(
                "Breakers",
                "The circuit breaker of each lane.",
                "short",
                {"{{workspace}}": highest("stream_app_lane_breaker", LANES, "workspace")},
                "states",
                12,
                states=BREAKER,
            ),
        ),
        "Leads": (
            Panel(
                "Steps of leads",
                "Committed steps of leads by status, per second.",
                "ops",
                {"{{status}}": rate("stream_app_lead_events_total", LANES, "status")},
                "stack",
                12,
            ),
            Panel(
                "Accepted by Clay, of all sent",
                "The part of the POSTs that Clay accepted.",
                "percentunit",
                {
                    "accepted": (
                        "sum(rate(stream_app_post_seconds_count"
                        f'{{outcome="accepted",{RELEASE}}}[$__rate_interval]))'
                        " / sum(rate(stream_app_post_seconds_count"
                        f"{{{RELEASE}}}[$__rate_interval]))"
                    ),
                },
                span=6,
                most=1,
            ),
            Panel(
                "Leads that wait on Kafka",
                "Records that no worker has finished yet, by topic. A held lane makes them "
                "wait on purpose.",
                "short",
                {
                    "{{source}}": "sum by (source) "
                    f"(max by (source, partition) (stream_app_records_waiting{{{RELEASE}}}))",
                },
                "stack",
                6,
            ),
            Panel(
                "Credits booked",
                "Credits booked for leads, and those that came back, per second, by destination.",
                "short",
                {
                    "{{destination}}": rate(
                        "stream_app_credits_booked_total",
                        RELEASE,
                        "destination",
                    ),
                    "{{destination}} returned": rate(
                        "stream_app_credits_returned_total",
                        RELEASE,
                        "destination",
                    ),
                },
                span=8,
            ),
            Panel(
                "Credits saved by the cache",
                "Credits that were not spent because an earlier result answered the lead, "
                "per second.",
                "short",
                {"{{destination}}": rate("stream_app_credits_saved_total", RELEASE, "destination")},
                span=8,
            ),
            Panel(
                "New dead letters by reason",
                "Leads that became dead letters or were rejected per second, by reason.",
                "ops",
                {"{{reason}}": rate("stream_app_dead_letters_total", RELEASE, "reason")},
                "stack",
                8,
            ),
            Panel(
                "Dead letters by what has become of them",
                "Those that Kafka keeps. The open ones wait for an operator: `stream-app dlq`.",
                "short",
                {
                    "{{state}}": (
                        f'max by (state) (stream_app_dead_letters_kept{{topic="dlq",{RELEASE}}})'
                    ),
                },
                "stack",
                12,
            ),
            Panel(
                "New dead letters",
                "Leads that became dead letters or were rejected, by destination.",
                "short",
                {
                    "{{destination}}": births(
                        f'status=~"dead_lettered|rejected_invalid",{LANES}',
                        "destination",
                        "$__rate_interval",
                    ),
                },
                "stack",
                12,
            ),
            Panel(
                "Callbacks",
                "Callbacks by the gateway's answer. `kafka_away` and `wrong_token` need a look.",
                "ops",
                {"{{answer}}": rate("stream_app_callbacks_total", RELEASE, "answer")},
                "stack",
                12,
            ),
            Panel(
                "Time until done, 95 %",
                "The time from the first event of a lead to its end, over all replays, for "
                "95 % of the leads.",
                "s",
                {
                    "{{destination}}": quantile(
                        0.95,
                        "stream_app_received_to_done_seconds",
                        "destination",
                        RELEASE,
                    ),
                },
                span=12,
            ),
            Panel(
                "Leads answered by the cache",
                "Leads that an earlier result answered, per second, by the reason. `stale`: "
                "Clay could not be asked.",
                "ops",
                {"{{reason}}": rate("stream_app_cache_hits_total", RELEASE, "reason")},
                "stack",
                12,
            ),
        ),
        "Money": (
            Panel(
                "Budget used",
                "The part of each cap that is spent or reserved. At 100 % the lane waits for "
                "the next day or month.",
                "percentunit",
                {
                    "{{workspace}} {{meter}}": highest(
                        "stream_app_lane_budget_used_ratio",
                        LANES,
                        "workspace",
                        "meter",
                    ),
                },
                "bars",
                12,
                {None: "green", 0.8: "orange", 0.95: "red"},
                most=1,
            ),
            Panel(
                "Hours until a day's credits are gone",
                "At the pace of the last 30 minutes. Empty where nothing is spent. Only caps "
                "of a day.",
                "h",
                {
                    "{{workspace}}": "("
                    "max by (workspace) "
                    f'(stream_app_lane_budget_cap{{meter="credits_day",{LANES}}})'
                    " - max by (workspace) "
                    f'(stream_app_lane_budget_spent{{meter="credits_day",{LANES}}})'
                    ") / ("
                    "max by (workspace) "
                    f'(deriv(stream_app_lane_budget_spent{{meter="credits_day",{LANES}}}[30m])) '
                    "> 0"
                    ") / 3600",
                },
                span=12,
            ),
            Panel(
                "Credits left at Clay",
                "What Clay said at the last reading of each balance. Only workspaces with an API "
                "key.",
                "short",
                {"{{workspace}}": highest("stream_app_bill_balance_credits", LANES, "workspace")},
            ),
            Panel(
                "Taken by Clay and booked, today",
                "By how many credits Clay's balance fell since midnight (UTC), and how many were "
                "booked for leads in the same time.",
                "short",
                {
                    "{{workspace}} taken": highest(
                        "stream_app_bill_taken_credits",
                        f'day="today",{LANES}',
                        "workspace",
                    ),
                    "{{workspace}} booked": highest(
                        "stream_app_bill_booked_credits",
                        f'day="today",{LANES}',
                        "workspace",
                    ),
                },
            ),
            Panel(
                "Not explained of Clay's bill",
                "What estimates, roundings and leads in flight do not explain of the difference, "
                "in credits. Above 0, Clay took more; below 0, it took less. `stream-app books "
                "--clay` names the causes.",
                "short",
                {
                    "{{workspace}} {{day}}": highest(
                        "stream_app_bill_unexplained_credits",
                        LANES,
                        "workspace",
                        "day",
                    ),
                },
                limits={None: "orange", 0: "green", 0.0001: "orange"},
                least=None,
            ),
        ),
    },
)
