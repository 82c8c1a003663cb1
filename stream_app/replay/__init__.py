"""Replays by hand: priced first, then done. What `stream-app replay ...` and `stream-app dlq` do, for Python users."""
