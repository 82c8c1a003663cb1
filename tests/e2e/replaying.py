"""A configuration whose dead letters can be replayed by hand."""

LANE = """
[workspaces.{name}.budget]
unlimited = true
[workspaces.{name}.breaker]
mode = "shadow"
[workspaces.{name}.flood_guard]
run = 1000000
share = 1
"""
DOWN = {"kind": "status_before", "status": 503}
CONFIG = """
[delivery]
max_attempts = 1
[replay]
max_replays = 2
backoff_base_s = 1
backoff_cap_s = 1
tiers_s = [1, 600]
"""
