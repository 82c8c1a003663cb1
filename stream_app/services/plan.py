"""Turns the settings into what the domain and the Clay client work with."""

from __future__ import annotations

import msgspec

from stream_app import __version__
from stream_app.clay.endpoints import Endpoint, setup_id, webhook_id
from stream_app.config import Settings
from stream_app.domain.dead_letter.replay import ReplayPolicy
from stream_app.domain.lane.budget import Cost
from stream_app.domain.policy import Destination, LinePolicy, Plan, Workspace


def derive(settings: Settings) -> tuple[Plan, dict[str, Endpoint]]:
    """Return the plan and the endpoints of settings, as `Configuration` needs them."""
    return build_plan(settings), build_endpoints(settings)


def build_plan(settings: Settings) -> Plan:
    """Return what the pipeline needs to know from the settings."""
    line = settings.line
    return Plan(
        topics=settings.names,
        partitions=settings.kafka.partitions,
        workspaces={
            name: Workspace(
                name=name,
                default_destination=settings.destination_of(name, None) or "",
                hold=here.hold,
                fallback=here.fallback,
                breaker=here.breaker,
                window=here.window,
                health=here.health,
                rate=here.rate,
                budget=here.budget,
                quota=here.quota,
                suspension=here.suspension,
                concurrency=msgspec.structs.replace(
                    here.concurrency,
                    least=min(here.concurrency.least, line.max_in_flight),
                    most=line.max_in_flight,
                ),
                flood_guard=here.flood_guard,
                callback_health=here.callback_health,
            )
            for name, here in settings.workspaces.items()
        },
        destinations={
            alias: Destination(
                alias=alias,
                workspace=there.workspace,
                webhook_ids=tuple(webhook_id(settings.secrets[name]) for name in there.webhooks_env),
                columns=there.columns,
                callbacks=there.callbacks,
                estimate=Cost(there.estimate_credits, there.estimate_actions),
                ceiling=Cost(there.ceiling_credits, there.ceiling_actions),
                uncertain=there.uncertain,
                uncertain_grace_s=there.uncertain_grace_s or line.uncertain_grace_s,
                cache_first=there.cache_first,
                token_name=there.token_env or "",
                setup_id=setup_id(*(settings.secrets[name] for name in (*there.webhooks_env, there.token_env) if name)),
                callback_url=settings.callback_url(alias) if there.callbacks else "",
                callback_deadline_s=there.callback_deadline_s,
                callback_grace_s=there.callback_grace_s,
            )
            for alias, there in settings.destinations.items()
        },
        pins=settings.pins,
        line=LinePolicy(
            max_in_flight=line.max_in_flight,
            max_attempts=line.max_attempts,
            retry_base_s=line.retry_base_s,
            retry_cap_s=line.retry_cap_s,
            patience_s=line.patience_s,
            start_within_s=line.max_request_start_age_s,
            freshness_days=line.freshness_days,
            retry_share=settings.shares.retry,
            bulk_share=settings.shares.bulk,
        ),
        replay=replay_policy(settings),
        app=__version__,
        callback_keys=settings.callback_keys if settings.gateway.token_keys_env else None,
        cache=settings.cache,
    )


def replay_policy(settings: Settings) -> ReplayPolicy:
    """Return the schedule and the limits of replays."""
    replay = settings.replay
    return ReplayPolicy(
        max_replays=replay.max_replays,
        max_returns=replay.max_returns,
        rate_share=replay.rate_share,
        base_s=replay.backoff_base_s,
        unreachable_base_s=replay.backoff_unreachable_base_s,
        cap_s=replay.backoff_cap_s,
        tiers_s=replay.tiers_s,
    )


def build_endpoints(settings: Settings) -> dict[str, Endpoint]:
    """Return the webhooks and the token of each destination."""
    return {
        alias: Endpoint(
            urls={webhook_id(settings.secrets[name]): settings.secrets[name] for name in there.webhooks_env},
            token=settings.secrets[there.token_env] if there.token_env else None,
            unavailable_is_refused=there.unavailable_is_refused,
        )
        for alias, there in settings.destinations.items()
    }
