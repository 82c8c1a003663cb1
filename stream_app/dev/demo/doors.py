"""The ways by which the demo's leads reach Clay: the webhook of a table, or Clay's API.

The scenario and the processes are the same. A door says how a destination is configured, what the
simulated Clay has behind it, and which faults tell the story there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from stream_app.dev.simulator.routines import API
from stream_app.dev.simulator.script import EndpointName


class Door(msgspec.Struct, frozen=True):
    """A way to Clay.

    Attributes:
        answers: What the simulated Clay does when a lead is ready, in the words of the demo.
        workspace: Settings of each workspace, of which `{number}` and `{url}` are filled in.
        destination: Settings of each destination, of which `{number}` and `{name}` are filled in.
        limits: What Clay allows, if it is not what the simulator has by default.
        script: What the simulator's script has for each workspace, `{name}`.
        unavailable: The fault with which Clay provably takes nothing, now and then.
        outage: The fault with which Clay takes nothing at all.
        silence: The fault with which a lead gets no answer, and `silent` in words.
        endpoint: What the simulator calls the request that brings a lead.
        is_notified: Clay tells the gateway that a run has finished.
    """

    answers: str
    workspace: str
    destination: str
    limits: str
    script: str
    unavailable: Mapping[str, Any]
    outage: Mapping[str, Any]
    silence: str
    silent: str
    endpoint: EndpointName = "webhook"
    is_notified: bool = False


BY_WEBHOOK: Final = Door(
    answers="calls back",
    workspace="",
    destination='webhooks_env = ["DEMO_WEBHOOK_{number}"]',
    limits="",
    script="",
    unavailable={"kind": "status_before", "status": 503},
    outage={"kind": "status_before", "status": 503},
    silence="callbacks_lost",
    silent="whose callback Clay lost",
)
BY_ROUTINE: Final = Door(
    answers="gives its results",
    workspace=f"""\
api_key_env = "DEMO_API_KEY_{{number}}"
api_url = "{{url}}{API}"
rate = {{{{ rate_per_s = 10, burst = 20 }}}}     # the demo has no minutes, so Clay allows more, too
""",
    destination="""\
routine = "function:t_{name}"
poll_after_s = [2, 5, 10, 20]
run_webhook = "wh_{name}"
run_webhook_secret_env = "DEMO_RUN_HOOK_{number}"
""",
    limits="limits.api_per_minute = 900\n",
    script="""
[routines."function:t_{name}"]
workspace = "{name}"
cost_output = "credits"
""",
    # No document says that a 503 of the API took nothing, so it would leave a lead uncertain.
    # Each 429 slows the lane down, so Clay answers it only at first.
    unavailable={"kind": "rate_limited", "for_s": 20},
    outage={"kind": "refuse"},
    silence="item_hung",
    silent="whose run never ends",
    endpoint="run",
    is_notified=True,
)
