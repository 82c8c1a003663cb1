"""What operators can do on the board: one module for each kind of thing, all in the way that `base` describes."""

from __future__ import annotations

from stream_app.board.actions.base import Action
from stream_app.board.actions.imports import import_actions
from stream_app.board.actions.lanes import lane_actions
from stream_app.board.actions.leads import Find, lead_actions
from stream_app.board.actions.replays import replay_actions
from stream_app.board.planner import Planner
from stream_app.board.site import Site
from stream_app.client.commands import CommandSender


def actions_of(site: Site, sender: CommandSender, planner: Planner, find: Find | None = None) -> list[Action]:
    """Return all actions. `find` finds what is stored of a lead; default: on Kafka."""
    return [
        *lane_actions(site, sender),
        *lead_actions(site, sender, find),
        *import_actions(site, sender),
        *replay_actions(site, planner),
    ]
