"""Publish two leads and follow them until Clay has answered.

    python examples/publish_leads.py --workspace acme

`publish` checks every lead first. A lead that it refuses does not stop the others.
"""

from __future__ import annotations

import argparse
import asyncio

from connect import settings

from stream_app import follow_status, publish

ENDED = {
    "enriched",
    "partial",
    "no_data",
    "enrich_error",
    "duplicate",
    "suppressed",
    "expired",
    "parked",
}


async def main(workspace: str) -> None:
    config = settings()
    leads = [
        {"lead_id": "crm-17", "email": "ada@example.com", "first_name": "Ada"},
        {"lead_id": "crm-18", "email": "grace@example.com", "first_name": "Grace"},
        {"lead_id": "crm-19", "email": "not an address"},
    ]
    async with follow_status(config, workspace=workspace, idle_timeout_s=60) as events:
        summary = await publish(
            leads,
            config,
            workspace=workspace,
            import_id="example",
            on_refused=lambda refusal: print(f"lead {refusal.line} refused: {refusal.text}"),
        )
        print(f"{summary.published} of {summary.rows} leads published")
        under_way = {"crm-17", "crm-18"}
        async for event in events:
            print(f"{event.lead_id}: {event.status} {event.text}")
            if event.status in ENDED:
                under_way.discard(event.lead_id)
            if not under_way:
                break


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--workspace", default="acme")
    asyncio.run(main(parser.parse_args().workspace))
